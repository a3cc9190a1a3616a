"""The picture below the map: red, green and blue as a screen shows them, one stretch for every place and time.

A fixed stretch has no seams and lets two months be compared; a table makes it, so that it is the same byte everywhere.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spex_core.bands import BAND_INDEX

TRUE_COLOR_BANDS = ("B04", "B03", "B02")
_WHITE = 0.35
"""Reflectance that is shown white: bright soil and snow are, vegetation keeps its differences."""
_GAMMA = 1.6
_STEPS = 10_000
"""Steps per unit of reflectance."""
_TABLE: npt.NDArray[np.uint8] = np.rint(
    1 + 254 * (np.arange(round(_WHITE * _STEPS) + 1) / (_WHITE * _STEPS)) ** (1 / _GAMMA)
).astype(np.uint8)


def true_color(reflectance: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Red, green and blue for a screen.

    Args:
        reflectance: ``[10, h, w]`` in the order of ``SENTINEL2_BANDS``, 0..1; NaN where nothing was measured.

    Returns:
        uint8 ``[3, h, w]``, 1..255; 0 where one of the three bands was not measured.
    """
    chosen = reflectance[[BAND_INDEX[name] for name in TRUE_COLOR_BANDS]]
    unknown = ~np.isfinite(chosen).all(axis=0)
    steps = np.clip(np.where(unknown, 0, chosen), 0, _WHITE) * _STEPS
    picture: npt.NDArray[np.uint8] = _TABLE[np.rint(steps).astype(np.int32)]
    picture[:, unknown] = 0
    return picture
