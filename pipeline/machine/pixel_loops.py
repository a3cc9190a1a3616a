"""Loops over pixels in C (``_pixel_loops.c``): one pass where NumPy makes many. The same bytes, with or without.

An installation without a compiler lacks them. Whoever has such a loop asks :data:`AVAILABLE` and does the same in NumPy
otherwise; tests hold both against each other. The loops know neither types nor byte order, so arrays come from here.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

try:
    from pipeline.machine import _pixel_loops  # type: ignore[attr-defined, unused-ignore]
except ImportError:
    _pixel_loops = None

SWITCH = "SPEX_PIXEL_LOOPS"
"""Set to 0 in the environment, it makes a process do without."""
loops: Any = None if os.environ.get(SWITCH) == "0" else _pixel_loops
"""The compiled module; None: there is none."""


def fits(*arrays: npt.NDArray[Any], types: tuple[Any, ...]) -> bool:
    """True if the loops are there and can take these arrays: native types, each row in one piece."""
    return loops is not None and all(
        array.dtype == kind and array.dtype.isnative and (array.shape[-1] < 2 or array.strides[-1] == array.itemsize)
        for array, kind in zip(arrays, types, strict=True)
    )


def code_positions(codes: Any) -> npt.NDArray[np.int16]:
    """Position of each code among some, -1 of other codes: int16 ``[256]``."""
    positions = np.full(256, -1, np.int16)
    positions[list(codes)] = np.arange(len(codes))
    return positions
