"""A labelled chip, and chips of one origin."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from spex_core.bands import BANDS, Band
from spex_core.legend import Legend

if TYPE_CHECKING:
    from pipeline.datasets.dataset import Dataset

FloatArray = npt.NDArray[np.float32]
Channels = npt.NDArray[np.int16]


@dataclass(frozen=True)
class LabelledChip:
    """One chip to compare with."""

    reflectance: FloatArray
    """``[10, H, W]`` in the order of ``SENTINEL2_BANDS``; NaN: missing band or pixel."""
    labels: Channels
    """Class channel of the source's classes, ``[H, W]``; -1: no label."""


class Chips(Protocol):
    """Labelled chips; sizes may differ."""

    def __len__(self) -> int: ...

    def chip(self, index: int) -> LabelledChip:
        """One chip."""
        ...


@dataclass(frozen=True)
class Source:
    """Chips of one origin, and what is known about them."""

    name: str
    chips: Chips
    classes: Legend
    """Classes of the labels, in channel order."""
    sensor: tuple[Band, ...] = BANDS
    """The band that stands in each of the ten channels."""
    gsd_m: float | None = None
    """Pixel size on the ground, metres, where it is not the sensor's own."""
    groups: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Codes of ``worldcover9`` that count as each class, where the data set has such a crosswalk."""
    dataset: Dataset | None = None
    """The public data set that it is, with its protocol."""
    complete: bool = True
    """Whether all chips of the split are used."""
