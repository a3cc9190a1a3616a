"""What the darkest pixels tell of a scene's offset: 0.1 too much or too little shows where ground reflects nothing.

Clear water absorbs beyond the red and dense vegetation below the green and beyond 2 µm, so both stay below 0.05 there;
nothing reflects -0.05. An offset left in lifts every pixel of every band above 0.09 **and** makes water or vegetation
appear once 0.1 is taken away again: both must hold, so that deserts and snow raise no alarm. Haze lifts the visible
bands alone, which is why one band beyond it is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from spex_core.bands import SENTINEL2_BANDS

SAMPLE_MIN = 500
"""Fewest pixels that are said anything about."""
STEP = 0.1
"""The offset of the products since baseline 04.00, as reflectance."""
NO_DARKER = 0.09
"""Darkest pixel of a scene that may have the offset still in it."""
DENSE_INFRARED = 0.2
IMPOSSIBLE = -0.05
"""No ground reflects so little; single pixels in shadows are corrected too far, but not so many."""

Offset = Literal["doubled", "missing", "perhaps missing"]
_Float = npt.NDArray[np.float32]

_VISIBLE, _RED, _INFRARED, _SHORTWAVE = ("B02", "B03", "B04"), ("B04",), ("B8A", "B08"), ("B12", "B11")


def check_dark_pixels(reflectance: _Float, bands: Sequence[str] = SENTINEL2_BANDS) -> str | None:
    """Warns when the darkest pixels contradict the chosen offset by about the 0.1 of a forgotten or doubled one.

    Args:
        reflectance: ``[len(bands), ...]`` float32, NaN = none.
        bands: Any of ``SENTINEL2_BANDS``.

    Returns:
        One line, or None when nothing contradicts the decision or the sample is too small.
    """
    pixels = whole_pixels(reflectance)
    if pixels.shape[1] < SAMPLE_MIN:
        return None
    low = darkest(pixels)
    if low < IMPOSSIBLE:
        return f"dark pixels at reflectance {low:.3f}: the offset seems to be subtracted twice"
    if low < NO_DARKER or max(_appearing(pixels - np.float32(STEP), bands)) < 0.01:
        return None
    return f"no pixel is darker than reflectance {low:.3f}: the offset of -0.1 seems to be missing"


def offset_evidence(reflectance: _Float, bands: Sequence[str]) -> Offset | None:
    """What clear pixels say of the offset that was added to them, strictly enough to act on it.

    Args:
        reflectance: ``[len(bands), n]`` float32, NaN = none.
        bands: Any of ``SENTINEL2_BANDS``.

    Returns:
        ``"doubled"``: nothing can reflect so little. ``"missing"``: vegetation appears in every band once 0.1 is taken
        away. ``"perhaps missing"``: water appears (glint may look so), or vegetation in bands that haze reaches. None:
        nothing speaks against it, or there are too few pixels.
    """
    pixels = whole_pixels(reflectance)
    if pixels.shape[1] < SAMPLE_MIN:
        return None
    lowest = pixels.min(axis=0)
    very_low, low = (float(v) for v in np.percentile(lowest, (1.0, 5.0)))
    if low < IMPOSSIBLE or very_low < 1.4 * IMPOSSIBLE:
        return "doubled"
    if very_low < NO_DARKER:
        return None
    vegetation, water = _appearing(pixels - np.float32(STEP), bands, dense=True)
    beyond_haze = any(name in bands for name in _SHORTWAVE)
    if vegetation >= 0.03 and beyond_haze:
        return "missing"
    return "perhaps missing" if max(vegetation, water) >= 0.01 else None


def bright_vegetation(reflectance: _Float, bands: Sequence[str], vegetated: npt.NDArray[np.bool_]) -> bool:
    """Whether vegetation is nowhere dark in the visible bands, where no band beyond them could tell an offset.

    Haze may lift them as much: this is a doubt, and no evidence to act on.

    Args:
        reflectance: ``[len(bands), n]`` float32, NaN = none.
        bands: Any of ``SENTINEL2_BANDS``.
        vegetated: bool ``[n]``: what the scene classification calls vegetation.
    """
    visible = [position for position, name in enumerate(bands) if name in _VISIBLE]
    if not visible or any(name in bands for name in (*_INFRARED, *_SHORTWAVE)):
        return False
    pixels = whole_pixels(reflectance[visible][:, vegetated])
    return pixels.shape[1] >= SAMPLE_MIN and darkest(pixels) >= NO_DARKER


def darkest(pixels: _Float) -> float:
    """Reflectance of the darkest band that 99 % of the pixels exceed; ``[bands, n]``, finite."""
    return float(np.percentile(pixels.min(axis=0), 1.0))


def whole_pixels(reflectance: _Float) -> _Float:
    """Pixels with a value in every band: ``[bands, n]``."""
    pixels = reflectance.reshape(reflectance.shape[0], -1)
    return pixels[:, np.isfinite(pixels).all(axis=0)]


def _appearing(pixels: _Float, bands: Sequence[str], dense: bool = False) -> tuple[float, float]:
    """Shares of pixels that look like vegetation and like clear water, as far as the bands can tell.

    ``dense`` vegetation has a bright near infrared beside a darker shortwave infrared; towns and soils have not.
    """

    def first(names: Sequence[str]) -> _Float | None:
        return next((pixels[list(bands).index(name)] for name in names if name in bands), None)

    red, infrared, shortwave = first(_RED), first(_INFRARED), first(_SHORTWAVE)
    if infrared is None:
        return 0.0, 0.0
    vegetation = 0.0
    if red is not None:
        green = (red < 0.08) & (infrared > 4.0 * np.maximum(red, 0.01))
        if dense:
            green &= infrared > DENSE_INFRARED
            if shortwave is not None:
                green &= shortwave < 0.5 * infrared
        vegetation = float(green.mean())
    beyond = infrared if shortwave is None else np.maximum(infrared, shortwave)
    return vegetation, float((beyond < 0.05).mean())
