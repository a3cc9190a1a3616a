"""Boundary F1: whether the borders of a class lie where the reference has them, within a tolerance.

Source: Csurka et al. 2013, What is a good evaluation measure for semantic segmentation? (BMVC), counted over all chips
together instead of averaged chip by chip, so that a chip with three boundary pixels does not weigh as much as a coast.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

_BESIDE = ndimage.generate_binary_structure(2, 1)

Channels = npt.NDArray[np.int16]


@dataclass
class BoundaryMatches:
    """Counts of boundary pixels per class.

    Args:
        classes: K.
        tolerance_px: Two boundary pixels at this distance or nearer match (Euclidean, pixel centres).
    """

    classes: int
    tolerance_px: float

    def __post_init__(self) -> None:
        self._found = np.zeros((2, self.classes), np.int64)
        self._reference = np.zeros((2, self.classes), np.int64)

    def add(self, reference: Channels, found: Channels) -> None:
        """Counts one chip.

        Args:
            reference: Class channel per pixel, ``[H, W]``; -1 where there is no label. Borders against unlabelled
                pixels and the edge of the chip are no boundaries.
            found: Class channel per pixel, ``[H, W]``; -1 for a class that is none of the K.
        """
        labelled = reference >= 0
        present = np.union1d(np.unique(reference), np.unique(found))
        for k in present[present >= 0].tolist():
            truth = _boundary(reference == k, labelled)
            guess = _boundary((found == k) & labelled, labelled)
            self._reference[:, k] += (truth.sum(), (truth & self._near(guess)).sum())
            self._found[:, k] += (guess.sum(), (guess & self._near(truth)).sum())

    def _near(self, boundary: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        if not boundary.any():
            return boundary
        near: npt.NDArray[np.bool_] = ndimage.distance_transform_edt(~boundary) <= self.tolerance_px
        return near

    @property
    def f1(self) -> npt.NDArray[np.float64]:
        """Per class, ``[K]``, 0..1; NaN where the reference has no boundary of the class (sparse polygons)."""
        scores = np.full(self.classes, np.nan)
        for k in range(self.classes):
            (found, right), (there, met) = self._found[:, k], self._reference[:, k]
            if there:
                precision, recall = right / found if found else 0.0, met / there
                scores[k] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        return scores

    @property
    def mean_f1(self) -> float:
        """Mean over the classes that have a boundary in the reference; NaN if none has."""
        there = self._reference[0] > 0
        return float(self.f1[there].mean()) if there.any() else float("nan")


def _boundary(mask: npt.NDArray[np.bool_], labelled: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Pixels of a class that touch a labelled pixel of another class by a side."""
    touched: npt.NDArray[np.bool_] = mask & ndimage.binary_dilation(labelled & ~mask, _BESIDE)
    return touched
