"""The figures of one row of the table, gathered chip by chip."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.comparison.assessment import Assessment
from pipeline.comparison.boundary import BoundaryMatches
from pipeline.comparison.calibration import Calibration
from pipeline.evaluation.classes import Classes

FloatArray = npt.NDArray[np.float32]
Channels = npt.NDArray[np.int16]
Counts = npt.NDArray[np.int64]


class Tally:
    """Counts of one row.

    Args:
        classes: What is compared.
        tolerance_px: Of the boundary F1.
        bins: Of the calibration error.
    """

    def __init__(self, classes: Classes, tolerance_px: float, bins: int) -> None:
        self._classes = classes
        count = len(classes.legend)
        self._count = count
        self._chips: list[Counts] = []
        self.boundary = BoundaryMatches(count, tolerance_px)
        self.calibration = Calibration(bins)

    def add(self, scores: FloatArray, reference: Channels) -> Channels:
        """Counts one chip.

        Args:
            scores: Of the asked legend, ``[K, H, W]``, sums to 1 over K.
            reference: Channel of the compared class, ``[H, W]``; -1: not compared.

        Returns:
            Channel of the compared class that the row found, ``[H, W]``; -1: none of them.
        """
        group_of = self._classes.channel_of_asked
        found: Channels = group_of[scores.argmax(axis=0)]
        labelled = reference >= 0
        count = self._count
        rows, columns = reference[labelled].astype(np.int64), found[labelled].astype(np.int64)
        columns[columns < 0] = count
        # One column more: pixels that the row gives to a class which is compared with none.
        pairs = np.bincount(rows * (count + 1) + columns, minlength=count * (count + 1))
        self._chips.append(pairs.reshape(count, count + 1))
        self.boundary.add(reference, found)
        self.calibration.add(self._confidence(scores[:, labelled]), rows == columns)
        return found

    def _confidence(self, scores: FloatArray) -> FloatArray:
        """Score of the group of the best class: what all its classes have together, ``[N]``."""
        group_of = self._classes.channel_of_asked
        if np.array_equal(group_of, np.arange(len(group_of))):
            return scores.max(axis=0) if scores.size else scores.reshape(-1)
        best = group_of[scores.argmax(axis=0)]
        return np.asarray((scores * (group_of[:, None] == best[None])).sum(axis=0).clip(0, 1), np.float32)

    @property
    def assessment(self) -> Assessment:
        """Agreement with the reference."""
        total = self.by_chip.sum(axis=0)
        return Assessment(self._classes.legend, total[:, :-1], total[:, -1])

    @property
    def by_chip(self) -> Counts:
        """Pixels ``[N, G, G + 1]``: chip, class of the reference, class found (last: one that is not compared)."""
        if not self._chips:
            return np.zeros((0, self._count, self._count + 1), np.int64)
        return np.stack(self._chips)
