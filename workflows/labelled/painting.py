"""Simulated land in the colours of measured spectra: fields, pastures, towns and rock as people's plots have them.

A spectrum without an image has no neighbourhood to learn from; simulated land has one, but the colours of its recipe.
Here each class of a simulated chip takes colours from one place's table, patch by patch, and keeps its own texture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spex_core.bands import BANDS, band_slots
from workflows.labelled.scene import LabelledSpectra

FloatArray = npt.NDArray[np.float32]

PATCHES = 5
"""At most so many colours of a class in a chip."""
TEXTURE = (0.5, 2.0)
"""Smallest and largest ratio of a pixel to the mean of its patch that is kept."""


@dataclass(frozen=True)
class Palette:
    """Spectra of one place by class."""

    place: str
    plots: dict[int, tuple[FloatArray, ...]]
    """WorldCover code → one array ``[n, 10]`` per polygon or plot; NaN in bands that the table lacks."""


def palettes(tables: Iterable[LabelledSpectra], least_bands: int = 9) -> list[Palette]:
    """Palettes of tables with enough bands, in order; tables without a class that is told give none.

    Args:
        tables: Spectra with labels.
        least_bands: Tables with fewer are left out: what they lack would mark the class.
    """
    found = []
    for table in tables:
        if len(table.bands) < least_bands:
            continue
        spectra = np.full((len(table.labels), len(BANDS)), np.nan, np.float32)
        spectra[:, list(band_slots(table.bands)[0])] = table.reflectance
        codes = table.codes
        plots: dict[int, tuple[FloatArray, ...]] = {}
        for code in sorted(set(codes[codes > 0].tolist())):
            of_class = codes == code
            groups = table.groups[of_class]
            plots[code] = tuple(spectra[of_class][groups == group] for group in np.unique(groups))
        if plots:
            found.append(Palette(table.place, plots))
    return found


def painted_chip(
    reflectance: FloatArray, codes: npt.NDArray[np.uint8], palette: Palette, rng: np.random.Generator
) -> FloatArray:
    """A simulated chip in a palette's colours; classes that the palette lacks stay as they are.

    Args:
        reflectance: ``[10, H, W]``.
        codes: ``[H, W]`` WorldCover codes.
        palette: Colours.
        rng: Decides which go where.

    Returns:
        ``[10, H, W]``; NaN throughout a band that a chosen spectrum lacks.
    """
    painted = reflectance.copy()
    direction = rng.normal(size=len(BANDS)).astype(np.float32)
    for code, plots in palette.plots.items():
        inside = codes == code
        if inside.any():
            painted[:, inside] = _patches(reflectance[:, inside], plots, direction, rng)
    painted[np.isnan(painted).any(axis=(1, 2))] = np.nan
    return painted


def _patches(
    pixels: FloatArray, plots: Sequence[FloatArray], direction: FloatArray, rng: np.random.Generator
) -> FloatArray:
    """Pixels ``[10, n]`` of a class, parted by their simulated colour, each part with a spectrum of its own."""
    parts = int(rng.integers(1, PATCHES + 1))
    along = direction @ pixels
    part = np.searchsorted(np.quantile(along, np.linspace(0, 1, parts + 1)[1:-1]), along)
    out = np.empty_like(pixels)
    for number in range(parts):
        own = part == number
        if not own.any():
            continue
        plot = plots[int(rng.integers(len(plots)))]
        # Of a plot's pixels two, mixed: between its colours, seldom outside them.
        share = np.float32(rng.uniform(-0.2, 1.2))
        first, second = plot[rng.integers(len(plot), size=2)]
        spectrum = np.maximum(share * first + (1 - share) * second, 0.002)
        mean = np.maximum(pixels[:, own].mean(axis=1, keepdims=True), 0.005)
        texture = np.clip(pixels[:, own] / mean, *TEXTURE) ** np.float32(rng.uniform(0.4, 1.0))
        out[:, own] = spectrum[:, None] * texture
    return out
