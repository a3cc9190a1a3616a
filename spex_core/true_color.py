"""Red, green and blue as a screen shows them: one stretch for every place and time, for people and for RGB models.

A pure function of a pixel's reflectance, never of its image: it has no seams, and two months can be compared. A table
makes it, so that it is the same byte everywhere.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spex_core.bands import BAND_INDEX

TRUE_COLOR_BANDS = ("B04", "B03", "B02")
TRUE_COLOR_SLOTS = tuple(BAND_INDEX[name] for name in TRUE_COLOR_BANDS)
"""Their places among the ten bands."""
WHITE = 0.35
"""Reflectance that is shown white: bright soil and snow are, vegetation keeps its differences."""
GAMMA = 1.6
STEPS = 10_000
"""Steps per unit of reflectance."""
TABLE: npt.NDArray[np.uint8] = np.rint(
    1 + 254 * (np.arange(round(WHITE * STEPS) + 1) / (WHITE * STEPS)) ** (1 / GAMMA)
).astype(np.uint8)
"""Step of reflectance → 1..255."""
TABLE.flags.writeable = False
