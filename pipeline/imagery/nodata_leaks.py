"""Numbers of a file that mark missing pixels although neither the file nor its item says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.imagery.scene_sample import FileSample
from pipeline.records.scene import SceneAsset

MARKS = (-1.0, -99.0, -999.0, -9999.0, -32767.0, -32768.0, 32767.0, 65534.0, 65535.0)
"""What files without a nodata tag use for it."""
SHARE_MIN = 0.001
COUNT_MIN = 5
"""Fewest pixels, and least share of the usable ones, that make a repeated value one that matters."""
SAME_SHARE_MIN = 0.005
"""The same for a value that is possible in itself, but stands in every band at once."""
REFLECTANCES = (-0.3, 2.0)
"""What any ground, cloud or glint can have."""
GAP = 0.3
"""Distance to every other value, as a share of the value, that no measurement keeps."""

_Float = npt.NDArray[np.float32]
_Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Leak:
    """A value that is taken for a measurement and is none."""

    value: float
    """Whole ones are int."""
    share: float
    """Of the usable pixels."""
    told_occurs: bool
    """The nodata value that the metadata give stands in the file too."""


def find_leak(file: FileSample, asset: SceneAsset, others: Sequence[_Float], usable: _Bool | None) -> Leak | None:
    """Looks at both ends of a file's range.

    Args:
        file: Its sample.
        asset: Says scale, offset and nodata.
        others: Numbers of the scene's other bands at the same places.
        usable: Places that may be used at all; None: all.
    """
    there = np.isfinite(file.numbers) if usable is None else np.isfinite(file.numbers) & usable
    told = there & (file.numbers == np.float32(asset.nodata))
    there &= ~told
    values = file.numbers[there]
    if not len(values):
        return None
    for end in (values.min(), values.max()):
        hits = values == end
        count = int(hits.sum())
        if count < max(COUNT_MIN, SHARE_MIN * len(values)):
            continue
        value = float(end)
        by_scale = value * asset.scale + asset.offset
        impossible = not REFLECTANCES[0] <= by_scale <= REFLECTANCES[1]
        alone = impossible and (value in MARKS or _is_far(value, values[~hits]))
        places = there & (file.numbers == end)
        together = (
            len(others) >= 2
            and (value in MARKS or value == 0.0 or (value == 255.0 and file.dtype == "uint8"))
            and count >= SAME_SHARE_MIN * len(values)
            and all(bool((other[places] == end).mean() > 0.99) for other in others)
        )
        if alone or (together and count < len(values)):
            whole = int(value) if value == int(value) else value
            return Leak(whole, count / len(values), int(told.sum()) >= max(COUNT_MIN, SHARE_MIN * len(values)))
    return None


def _is_far(value: float, rest: _Float) -> bool:
    """Whether no other value comes near. Where there is no other, a scale may be wrong as well: not known."""
    return len(rest) > 0 and float(np.abs(rest - np.float32(value)).min()) > GAP * abs(value)
