"""Which pixels of a window take which scenes for their median, as far as the masks decide it.

A pixel considers the first ``max_observations`` passes that saw it, in the order of the candidates, and takes the clear
ones; where none of them is clear, the next clear one. Of the granules of one pass it takes one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.imagery.candidates import Candidate
from pipeline.imagery.layers import NumberLayers
from pipeline.imagery.open_pixels import MaskPart, extent_of, masks_where_open
from pipeline.imagery.window_reader import WindowReader
from pipeline.planning.lattice import union_window
from pipeline.records.plan import Window
from pipeline.records.scene import Scene
from pipeline.records.windows import slices

_Float = npt.NDArray[np.float32]
_Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Use:
    """A scene that gives pixels."""

    scene: Scene
    acquisition: int
    """Number of its pass."""
    number: int
    """What stands for it in the layers."""
    places: tuple[tuple[int, Window], ...]
    """Layers, and the rectangles of the window in which its pixels lie there."""

    @property
    def extent(self) -> Window:
        """Smallest rectangle of the window that holds all its pixels."""
        return union_window([window for _, window in self.places])


class Observations:
    """The scenes of each pixel, in layers of one scene a pixel."""

    def __init__(self, shape: tuple[int, int], limit: int) -> None:
        self._whole = Window(0, 0, *shape)
        self.layers = NumberLayers(shape, limit)
        self.uses: list[Use] = []
        self.late = np.zeros(shape, bool)
        """Pixels for which none of the passes to be considered was clear, and a later one was taken."""

    def place(self, uses: Sequence[Use], images: _Float, extent: Window, stack: _Float) -> None:
        """Writes one band of some scenes to the pixels that take them.

        Args:
            uses: Some of :attr:`uses`.
            images: float32 [use, h, w] of ``extent``.
            extent: Rectangle of the window that holds the scenes' pixels.
            stack: float32 [layer, h, w] of the whole window, written to.
        """
        for use, image in zip(uses, images, strict=True):
            for layer, window in use.places:
                at = slices(window, self._whole)
                there = self.layers.holds_in(layer, use.number, at)
                values = image[slices(window, extent)]
                if there.all():
                    stack[layer][at] = values
                else:
                    np.copyto(stack[layer][at], values, where=there)


def choose_observations(reader: WindowReader, candidates: Sequence[Candidate], limit: int) -> Observations:
    """Applies the rule in the head of this file to a window.

    Memory is that of ``limit`` layers, whatever the number of scenes.

    Args:
        reader: Of the window.
        candidates: Scenes that may have pixels in it, best first.
        limit: Most passes that a pixel considers.
    """
    chosen = Observations(reader.shape, limit)
    considered = np.zeros(reader.shape, np.uint8)
    taken = np.zeros(reader.shape, np.uint8)
    open_pixels = np.ones(reader.shape, bool)
    passes = _Passes(candidates, chosen.layers, reader.shape, limit)
    for candidate, parts in masks_where_open(reader, candidates, open_pixels, first=limit):
        number = len(chosen.uses) + 1
        places: list[tuple[int, Window]] = []
        for part in parts:
            at = part.at
            use = part.clear & open_pixels[at]
            before = considered[at] >= limit
            seen = part.seen & ~before
            passes.observe(candidate, part, use, seen)
            considered[at] += seen
            taken[at] += use
            open_pixels[at] = (considered[at] < limit) | (taken[at] == 0)
            if use.any():
                chosen.late[at] |= use & before
                inner = extent_of(use)
                window = Window(at[0].start + inner.row, at[1].start + inner.col, inner.height, inner.width)
                pixels = use[slices(inner, Window(0, 0, *use.shape))]
                layers = chosen.layers.add(number, slices(window, Window(0, 0, *reader.shape)), pixels)
                places.extend((layer, window) for layer in layers)
        if places:
            chosen.uses.append(Use(candidate.scene, candidate.acquisition, number, tuple(places)))
            passes.used(candidate, number)
    return chosen


class _Passes:
    """Which passes were seen and taken where, for those with several granules here."""

    def __init__(
        self, candidates: Sequence[Candidate], taken: NumberLayers, shape: tuple[int, int], limit: int
    ) -> None:
        granules = Counter(candidate.acquisition for candidate in candidates)
        self._several = {acquisition for acquisition, count in granules.items() if count > 1}
        self._taken = taken
        self._seen = NumberLayers(shape, limit)
        self._uses: dict[int, list[int]] = {}

    def observe(self, candidate: Candidate, part: MaskPart, use: _Bool, seen: _Bool) -> None:
        """Takes out of ``use`` and ``seen``, in place, the pixels that another granule of the pass has served."""
        if candidate.acquisition not in self._several:
            return
        for number in self._uses.get(candidate.acquisition, ()):
            use &= ~self._taken.holds(number, part.at)
        # Whether a pass was seen matters while it is counted; later on no pixel that is still open has taken one.
        if seen.any():
            seen &= ~self._seen.holds(candidate.acquisition + 1, part.at)
            self._seen.add(candidate.acquisition + 1, part.at, seen)

    def used(self, candidate: Candidate, number: int) -> None:
        """Remembers that a granule gave pixels."""
        if candidate.acquisition in self._several:
            self._uses.setdefault(candidate.acquisition, []).append(number)
