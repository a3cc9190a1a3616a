"""A picture of one point's explanation: its spectrum beside usual ones, and what deleting parts does to the odds."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.explain.attribution import Effect
from pipeline.explain.point import PointExplanation
from pipeline.explain.point_words import odds_text, part_text
from pipeline.machine.atomic_files import write_bytes
from spex_core.bands import BANDS, SENTINEL2_BANDS

SIZE = (1000, 880)
_INK, _SOFT, _AGAINST = "#202020", "#c8c8c8", "#9a9a9a"
_PLOT = (70, 90, 960, 400)
"""Left, top, right, bottom of the spectra, px."""
_BARS_TOP, _BAR_STEP = 470, 26
_BAR_ZERO, _BAR_REACH = 560, 260


def write_point_plot(found: PointExplanation, path: Path) -> Path:
    """Writes the PNG, atomically; the same explanation gives the same bytes.

    Raises:
        OutputError: It cannot be written.
    """
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    other = "" if found.other is None else f", {odds_text(found.odds or 0.0)} against {found.other.name}"
    _text(draw, (20, 16), f"{found.own.name} at {found.pixel.lon:.5f},{found.pixel.lat:.5f}{other}", 22)
    if found.spectrum is None:
        _text(draw, (20, 60), "The scenes cannot be read again: there is no spectrum to show.", 15)
    else:
        _draw_spectra(draw, found)
    if found.attribution is not None:
        _draw_effects(draw, found)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())
    return path


def _text(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int = 14, anchor: str = "la") -> None:
    draw.text(at, text, fill=_INK, font=ImageFont.load_default(size=size), anchor=anchor)


def _draw_spectra(draw: ImageDraw.ImageDraw, found: PointExplanation) -> None:
    assert found.spectrum is not None
    lines = [("here", found.spectrum, _INK, 4)]
    for entry, typical in ((found.own, found.typical), (found.other, found.typical_other)):
        if entry is not None and typical is not None:
            lines.append((f"usual of {entry.name}", typical.spectrum, entry.color, 3))
    left, top, right, bottom = _PLOT
    highest = max(float(np.nanmax(values)) for _, values, _, _ in lines)
    step = next(s for s in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0) if highest / s <= 6 or s == 2.0)
    ceiling = step * max(math.ceil(highest / step), 1)
    _text(draw, (20, 58), f"Reflectance; usual: the median {found.typical_where}" if len(lines) > 1 else "Reflectance")
    for mark in range(round(ceiling / step) + 1):
        y = bottom - (bottom - top) * mark * step / ceiling
        draw.line((left, y, right, y), fill=_SOFT)
        _text(draw, (left - 8, y), f"{mark * step:g}"[:5], 13, "rm")
    nanometres = np.array([band.wavelength_nm for band in BANDS])
    across = left + 20 + (right - left - 40) * (nanometres - nanometres.min()) / np.ptp(nanometres)
    for position, name in enumerate(SENTINEL2_BANDS):
        _text(draw, (across[position], bottom + 8 + (15 if name in ("B8A", "B06") else 0)), name, 12, "ma")
    for _, values, color, width in reversed(lines):
        points = [
            (float(x), bottom - (bottom - top) * min(max(float(value), 0.0), ceiling) / ceiling)
            for x, value in zip(across, values, strict=True)
            if np.isfinite(value)
        ]
        draw.line(points, fill=color, width=width, joint="curve")
        for x, y in points:
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=color, outline=_INK)
    x = left
    for name, _, color, _ in lines:
        draw.rectangle((x, bottom + 46, x + 14, bottom + 58), fill=color, outline=_INK)
        _text(draw, (x + 20, bottom + 52), name, 14, "lm")
        x += 50 + round(ImageFont.load_default(size=14).getlength(name))


def _draw_effects(draw: ImageDraw.ImageDraw, found: PointExplanation) -> None:
    attribution = found.attribution
    assert attribution is not None
    effects: list[Effect] = [*attribution.groups, *attribution.places]
    largest = max(abs(effect.drop) for effect in effects) or 1.0
    _text(
        draw,
        (20, _BARS_TOP),
        f"Deleted (replaced by the mean around): odds of {found.own.name} against all others; "
        f"{odds_text(attribution.odds)} with everything",
    )
    for row, effect in enumerate(effects):
        y = _BARS_TOP + 34 + row * _BAR_STEP
        _text(draw, (410, y), part_text(effect.part, found.pixel.zone.grid.resolution_m), 13, "rm")
        length = _BAR_REACH * effect.drop / largest
        low, high = sorted((_BAR_ZERO, _BAR_ZERO + length))
        draw.rectangle((low, y - 8, high, y + 8), fill=found.own.color if effect.drop > 0 else _AGAINST, outline=_INK)
        _text(draw, (_BAR_ZERO + _BAR_REACH + 20, y), odds_text(effect.odds), 13, "lm")
    draw.line((_BAR_ZERO, _BARS_TOP + 20, _BAR_ZERO, _BARS_TOP + 34 + len(effects) * _BAR_STEP), fill=_INK)
