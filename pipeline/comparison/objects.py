"""Objects found: F1 at intersection over union 0.5, as building footprints are scored (SpaceNet, arXiv 1807.01232)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Channels = npt.NDArray[np.int16]
MATCH_IOU = 0.5


@dataclass
class ObjectMatches:
    """Counts of connected objects (by sides) of one class. An object matches at most one other.

    At this intersection over union no object can match two others of a label map, so the order does not matter.
    """

    channel: int
    """Class whose objects are counted."""
    matched: int = field(default=0, init=False)
    found: int = field(default=0, init=False)
    reference: int = field(default=0, init=False)

    def add(self, reference: Channels, found: Channels) -> None:
        """Counts one chip.

        Args:
            reference: Class channel, ``[H, W]``; -1: no label, objects there do not count.
            found: Class channel, ``[H, W]``.
        """
        truth, there = ndimage.label(reference == self.channel)
        guess, many = ndimage.label((found == self.channel) & (reference >= 0))
        self.reference += there
        self.found += many
        if not (there and many):
            return
        shared = np.bincount(
            (truth.astype(np.int64) * (many + 1) + guess).ravel(), minlength=(there + 1) * (many + 1)
        ).reshape(there + 1, many + 1)
        union = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0, keepdims=True) - shared
        self.matched += int((shared[1:, 1:] > MATCH_IOU * union[1:, 1:]).sum())

    @property
    def f1(self) -> float:
        """0..1; NaN where there is no object at all."""
        total = self.found + self.reference
        return 2 * self.matched / total if total else float("nan")
