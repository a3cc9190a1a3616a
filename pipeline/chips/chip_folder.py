"""Chip folders: labelled chips of one size as three memory-mapped arrays.

A chip folder holds

- ``reflectance.npy``: int16, reflectance * 10000, ``[N, 10, H, W]``; -32768: missing band or pixel;
- ``target.npy``: uint8, class probability * 255, ``[N, K, H, W]``, or ``codes.npy``: uint8 class codes, ``[N, H, W]``;
- ``weight.npy``: uint8 0/1, ``[N, H, W]``.

They are written by :mod:`workflows.training_chips` and :mod:`workflows.teacher_chips`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import ChipError
from spex_core.bands import SENTINEL2_BANDS
from spex_core.legend import Legend

SCALE = 10_000
MISSING = -32_768
"""Stored value of a missing band or pixel."""

FloatArray = npt.NDArray[np.float32]


class ChipFolder:
    """A chip folder as a :class:`spex_core.batches.ChipSource`.

    Args:
        folder: The three arrays.
        legend: Classes of the labels, in channel order.

    Raises:
        ChipError: An array is missing, unreadable or of another shape.
    """

    def __init__(self, folder: Path, legend: Legend) -> None:
        self._reflectance = _mapped(folder / "reflectance.npy")
        soft = folder / "target.npy"
        self._labels = _mapped(soft if soft.exists() else folder / "codes.npy")
        self._weight = _mapped(folder / "weight.npy")
        self._codes = np.array(legend.codes, np.uint8)[:, None, None]
        count, *_, height, width = self._reflectance.shape if self._reflectance.ndim == 4 else (0, 0, 0)
        labels = (count, len(legend), height, width) if soft.exists() else (count, height, width)
        for name, array, shape in (
            ("reflectance.npy", self._reflectance, (count, len(SENTINEL2_BANDS), height, width)),
            (soft.name if soft.exists() else "codes.npy", self._labels, labels),
            ("weight.npy", self._weight, (count, height, width)),
        ):
            if array.shape != shape:
                raise ChipError(f"{folder / name} is {list(array.shape)}, expected {list(shape)}")

    def __len__(self) -> int:
        return len(self._reflectance)

    def chip(self, index: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """See :meth:`spex_core.batches.ChipSource.chip`."""
        labels = self._labels[index]
        target = labels / np.float32(255) if labels.ndim == 3 else (labels[None] == self._codes).astype(np.float32)
        digital = self._reflectance[index]
        reflectance = np.where(digital == MISSING, np.float32(np.nan), digital.astype(np.float32) / SCALE)
        return (
            reflectance.astype(np.float32),
            target.astype(np.float32),
            self._weight[index].astype(np.float32),
        )

    def class_shares(self, index: int) -> FloatArray:
        """Share of each class ``[K]`` among a chip's labelled pixels, from every fourth row and column."""
        weight = self._weight[index, ::4, ::4].astype(np.float32)
        labels = self._labels[index][..., ::4, ::4]
        target = labels / np.float32(255) if labels.ndim == 3 else labels[None] == self._codes
        shares: FloatArray = (target * weight).sum((1, 2)) / max(float(weight.sum()), 1.0)
        return shares.astype(np.float32)


def _mapped(path: Path) -> npt.NDArray[np.generic]:
    try:
        array: npt.NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ChipError(f"{path} is not a readable array of a chip folder: {error}") from None
    return array
