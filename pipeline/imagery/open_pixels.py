"""Masks of scenes, one scene after the other, read only where a pixel still looks for an observation.

One spot that is never clear must be looked for in every scene of the period; the rest of the window must not. So the
window is read in ever fewer and smaller rectangles, and a mask is let go once it was used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.imagery.candidates import Candidate, near
from pipeline.imagery.window_reader import WindowReader
from pipeline.records.plan import Window
from pipeline.records.windows import slices

CELL_PX = 256
"""Rectangles are made of cells of this size: opening a file costs as much as reading so many pixels squared."""
MASKS_PER_LOAD = 8
"""Masks that are read at the same time: where files are remote, most of the time is waiting."""

_Bool = npt.NDArray[np.bool_]
Place = tuple[slice, slice]


@dataclass(frozen=True)
class MaskPart:
    """The mask of a scene in a rectangle of the window."""

    at: Place
    """Rows and columns of the window's arrays."""
    seen: _Bool
    """Where the scene has data."""
    clear: _Bool
    """Where it may be used."""


def masks_where_open(
    reader: WindowReader, candidates: Sequence[Candidate], open_pixels: _Bool, first: int
) -> Iterator[tuple[Candidate, list[MaskPart]]]:
    """Goes through scenes in their order and yields the masks that open pixels need; ends when none is open.

    Args:
        reader: Of the window.
        candidates: Scenes that may have pixels in it.
        open_pixels: bool [h, w], read again for each scene: who iterates closes pixels in it, and opens none.
        first: Scenes whose masks will be needed in any case, and are read ahead together.
    """
    start, size = 0, first
    while start < len(candidates):
        parts = open_rectangles(open_pixels, reader.lattice_offset)
        if not parts:
            return
        group = candidates[start : start + size]
        wanted = {part: _there(reader, group, part) for part in parts}
        for part, there in wanted.items():
            for begin in range(0, len(group), MASKS_PER_LOAD):
                ahead = [c.scene for c in group[begin : begin + MASKS_PER_LOAD] if id(c) in there]
                if len(ahead) > 1:
                    reader.prefetch(ahead, part)
        for candidate in group:
            found: list[MaskPart] = []
            for part, there in wanted.items():
                at = slices(part, Window(0, 0, *reader.shape))
                if id(candidate) in there and open_pixels[at].any():
                    masks = reader.clear(candidate.scene, part)
                    if masks is None:  # unreadable: neither here nor in the other rectangles
                        found.clear()
                        break
                    found.append(MaskPart(at, *masks))
            if found:
                yield candidate, found
        reader.forget_masks()
        start, size = start + size, min(2 * size, MASKS_PER_LOAD)


def _there(reader: WindowReader, group: Sequence[Candidate], part: Window) -> set[int]:
    """Identities of the candidates that may have pixels in a rectangle."""
    if (part.height, part.width) == reader.shape:
        return {id(c) for c in group}
    return {id(c) for c in near(group, reader.grid, reader.within_grid(part))}


def open_rectangles(open_pixels: _Bool, offset: tuple[int, int] = (0, 0)) -> list[Window]:
    """Rectangles that hold every open pixel, share none, and leave out cells where none is open.

    Args:
        open_pixels: bool [h, w].
        offset: Row and column of its first pixel on the lattice of the cells.

    Returns:
        Windows of the array, each no larger than its open pixels need.
    """
    rows, columns = (_edges(size, start) for size, start in zip(open_pixels.shape, offset, strict=True))
    cells = np.logical_or.reduceat(np.logical_or.reduceat(open_pixels, rows[:-1], axis=0), columns[:-1], axis=1)
    growing: dict[tuple[int, int], int] = {}  # columns of a run → first row, as long as the run repeats below
    found: list[Window] = []
    for row in range(len(cells) + 1):
        runs = _runs(cells[row]) if row < len(cells) else []
        for run in [run for run in growing if run not in runs]:
            top = growing.pop(run)
            found.append(_shrunk(open_pixels, rows[top], rows[row], columns[run[0]], columns[run[1]]))
        for run in runs:
            growing.setdefault(run, row)
    return found


def _edges(size: int, start: int) -> list[int]:
    """Borders of the cells that a range of pixels touches, in pixels of the range."""
    return [0, *range(CELL_PX - start % CELL_PX, size, CELL_PX), size]


def _runs(cells: _Bool) -> list[tuple[int, int]]:
    """First and last-but-one position of every unbroken row of true cells."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], cells, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(changes[::2], changes[1::2], strict=True)]


def _shrunk(open_pixels: _Bool, top: int, bottom: int, left: int, right: int) -> Window:
    inside = extent_of(open_pixels[top:bottom, left:right])
    return Window(top + inside.row, left + inside.col, inside.height, inside.width)


def extent_of(pixels: _Bool) -> Window:
    """Smallest window that holds every true pixel; there is one at least."""
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    return Window(int(rows[0]), int(columns[0]), int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1)
