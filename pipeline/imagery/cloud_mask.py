"""The scene classification layer (SCL) as a mask of usable pixels.

Classes (Sentinel-2 Level-2A Algorithm Theoretical Basis Document, ESA): 0 nodata, 1 saturated or defective, 2 dark,
3 cloud shadow, 4 vegetation, 5 not vegetated, 6 water, 7 unclassified, 8 cloud medium probability, 9 cloud high
probability, 10 thin cirrus, 11 snow or ice. Snow is a land-cover class here and is not masked by default.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.records.scene import SCL_GROWING, SCL_NODATA


def clear_mask(scl: npt.NDArray[np.uint8], mask_scl: Sequence[int], dilation_px: int) -> npt.NDArray[np.bool_]:
    """Pixels that may be used.

    Args:
        scl: uint8 [h + 2 * dilation_px, w + 2 * dilation_px]: the window with a halo, so that a cloud just outside
            casts its margin into it and neighbouring windows agree.
        mask_scl: Classes not to use.
        dilation_px: Cloud and shadow grow by this many pixels (Euclidean distance of pixel centres).

    Returns:
        bool [h, w].
    """
    unusable = np.isin(scl, (SCL_NODATA, *mask_scl))
    if dilation_px:
        growing = np.isin(scl, [c for c in mask_scl if c in SCL_GROWING])
        if growing.any():
            unusable |= grow(growing, dilation_px)
        unusable = unusable[dilation_px:-dilation_px, dilation_px:-dilation_px]
    return ~unusable


def grow(mask: npt.NDArray[np.bool_], radius_px: int) -> npt.NDArray[np.bool_]:
    """Every pixel within ``radius_px`` (Euclidean, between centres) of a true pixel: bool [h, w]."""
    if radius_px <= 3:
        offsets = np.arange(-radius_px, radius_px + 1)
        disk = offsets[:, None] ** 2 + offsets[None, :] ** 2 <= radius_px**2
        return np.asarray(ndimage.binary_dilation(mask, disk))
    return np.asarray(ndimage.distance_transform_edt(~mask) <= radius_px)
