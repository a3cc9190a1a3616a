"""Dates of a pixel that do not fit its other dates: cloud and shadow that every mask has missed.

Blue rises most where a cloud comes in, and the ground changes it least: the test of the multi-temporal method of
Hagolle et al. 2010 (doi:10.1016/j.rse.2010.03.002), here against the pixel's other dates instead of an earlier image. A
shadow takes near infrared, which no land loses overnight; it is only believed against the majority of three dates.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BRIGHTER = 0.06
"""Rise of blue reflectance above the reference from which a date may be cloud: twice the step of the method's source,
because dates lie farther apart here."""
BRIGHTER_RATIO = 1.4
"""The same as a ratio: bright ground varies more."""
RED_SHARE = 1.5
"""Where red rises more than so many times as much as blue, ground was laid bare; a cloud is white."""
DARKER_RATIO = 0.5
"""Share of the median near infrared below which a date lies in a shadow."""

_Float = npt.NDArray[np.float32]
_Bool = npt.NDArray[np.bool_]


def outlying(blue: _Float, red: _Float, infrared: _Float) -> _Bool:
    """Which dates of each pixel are left out of its median.

    Args:
        blue: Surface reflectance float32 ``[n, h, w]``, NaN where a date has none; likewise ``red`` and ``infrared``.

    Returns:
        bool ``[n, h, w]``. The reference date of a pixel, the darker one in blue of its middle two, always stays.
    """
    dates = len(blue)
    none = np.zeros(blue.shape, bool)
    if dates < 2:
        return none
    known = np.isfinite(blue) & np.isfinite(red) & np.isfinite(infrared)
    count = known.sum(axis=0)
    order = np.argsort(np.where(known, blue, np.inf), axis=0, kind="stable")
    middle = np.maximum(count - 1, 0) // 2
    reference = np.take_along_axis(order, middle[None], axis=0)
    blue_there, red_there = (np.take_along_axis(a, reference, axis=0) for a in (blue, red))
    with np.errstate(invalid="ignore"):
        rise = blue - blue_there
        cloud = (rise > BRIGHTER) & (blue > BRIGHTER_RATIO * blue_there) & (red - red_there < RED_SHARE * rise)
        sorted_infrared = np.sort(np.where(known, infrared, np.inf), axis=0)
        usual = np.take_along_axis(sorted_infrared, (count // 2)[None].clip(max=dates - 1), axis=0)
        shadow = (infrared < DARKER_RATIO * usual) & (blue <= blue_there) & (count >= 3)
    found = known & (cloud | shadow)
    np.put_along_axis(found, reference, False, axis=0)
    return np.asarray(found)
