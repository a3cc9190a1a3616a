"""The picture below the map, by the stretch of :mod:`spex_core.true_color`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spex_core.true_color import STEPS, TABLE, TRUE_COLOR_SLOTS, WHITE


def true_color(reflectance: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Red, green and blue for a screen.

    Args:
        reflectance: ``[10, h, w]`` in the order of ``SENTINEL2_BANDS``, 0..1; NaN where nothing was measured.

    Returns:
        uint8 ``[3, h, w]``, 1..255; 0 where one of the three bands was not measured.
    """
    chosen = reflectance[list(TRUE_COLOR_SLOTS)]
    unknown = ~np.isfinite(chosen).all(axis=0)
    steps = np.clip(np.where(unknown, 0, chosen), 0, WHITE) * STEPS
    picture: npt.NDArray[np.uint8] = TABLE[np.rint(steps).astype(np.int32)]
    picture[:, unknown] = 0
    return picture
