"""The scene classification layer (SCL) as a mask of usable pixels.

Classes (Sentinel-2 Level-2A Algorithm Theoretical Basis Document, ESA): 0 nodata, 1 saturated or defective, 2 dark,
3 cloud shadow, 4 vegetation, 5 not vegetated, 6 water, 7 unclassified, 8 cloud medium probability, 9 cloud high
probability, 10 thin cirrus, 11 snow or ice. Snow is a land-cover class here and is not masked by default.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.records.scene import SCL_GROWING, SCL_NODATA


def clear_mask(
    scl: npt.NDArray[np.uint8],
    mask_scl: Sequence[int],
    dilation_px: int,
    detected: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.bool_]:
    """Pixels that may be used.

    Args:
        scl: uint8 [h + 2 * dilation_px, w + 2 * dilation_px]: the window with a halo, so that a cloud just outside
            casts its margin into it and neighbouring windows agree.
        mask_scl: Classes not to use.
        dilation_px: Cloud and shadow grow by this many pixels (Euclidean distance of pixel centres).
        detected: Cloud and shadow that something else than the classification has found, bool of the same shape.

    Returns:
        bool [h, w].
    """
    unusable = _one_of((SCL_NODATA, *mask_scl))[scl]
    if detected is not None:
        unusable |= detected
    if dilation_px:
        growing = _one_of([c for c in mask_scl if c in SCL_GROWING])[scl]
        if detected is not None:
            growing |= detected
        if growing.any():
            unusable |= grow(growing, dilation_px)
        unusable = unusable[dilation_px:-dilation_px, dilation_px:-dilation_px]
    return ~unusable


def grow(mask: npt.NDArray[np.bool_], radius_px: int) -> npt.NDArray[np.bool_]:
    """Every pixel within ``radius_px`` (Euclidean, between centres) of a true pixel: bool [h, w]."""
    if radius_px <= 3:
        grown = mask.copy()
        height, width = mask.shape
        for down in range(-radius_px, radius_px + 1):
            for right in range(-radius_px, radius_px + 1):
                if 0 < down**2 + right**2 <= radius_px**2:
                    to = slice(max(down, 0), height + min(down, 0)), slice(max(right, 0), width + min(right, 0))
                    of = slice(max(-down, 0), height - max(down, 0)), slice(max(-right, 0), width - max(right, 0))
                    grown[to] |= mask[of]
        return grown
    from scipy import ndimage  # half a second that readers of 10 m maps do not need

    return np.asarray(ndimage.distance_transform_edt(~mask) <= radius_px)


def _one_of(classes: Sequence[int]) -> npt.NDArray[np.bool_]:
    """bool ``[256]``: true for some of the values of a byte."""
    table = np.zeros(256, bool)
    table[[value for value in classes if 0 <= value <= 255]] = True
    return table
