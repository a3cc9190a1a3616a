"""Patches of a class map that is seen block by block: sizes of 8-connected components with bounded memory.

Two-pass labelling over tiles (Haralick & Shapiro 1992, ch. 2): each block is labelled alone, and a union-find joins the
labels that meet across block borders. What stays in memory is one row of pixels and three numbers per patch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.machine import pixel_loops
from pipeline.records.plan import Window


@dataclass(frozen=True)
class PatchSummary:
    """Patches of one class."""

    count: int
    largest_px: int
    """Pixels of the largest patch; 0 if there is none."""


class PatchCounter:
    """Counts patches per class code; blocks arrive in row-major order of a lattice and do not overlap.

    Args:
        col: First column of the area, px of the zone grid.
        width: Columns of the area; every block lies inside them.
    """

    def __init__(self, col: int, width: int) -> None:
        self._col = col
        self._parent: NDArray[np.int64] = np.zeros(1, dtype=np.int64)
        self._size: NDArray[np.int64] = np.zeros(1, dtype=np.int64)
        self._code: NDArray[np.uint8] = np.zeros(1, dtype=np.uint8)
        self._used = 1  # label 0 is "no class"
        self._row: int | None = None
        self._row_end = -1
        self._above: NDArray[np.int64] = np.zeros(width, dtype=np.int64)
        self._current: NDArray[np.int64] = np.zeros(width, dtype=np.int64)
        self._left: NDArray[np.int64] | None = None
        self._left_end = -1

    def add(self, window: Window, codes: NDArray[np.uint8], mapped: NDArray[np.bool_]) -> None:
        """Takes the next block.

        Args:
            window: Where the block lies in the zone grid.
            codes: uint8 ``[height, width]``, class codes.
            mapped: bool ``[height, width]``; pixels that are ``False`` belong to no patch.
        """
        if window.row != self._row:
            fits = window.row == self._row_end
            self._above = self._current if fits else np.zeros_like(self._current)
            self._current = np.zeros_like(self._above)
            self._row, self._row_end, self._left = window.row, window.row + window.height, None
        first, last, left, right = self._label(codes, mapped)
        start = window.col - self._col
        stop = start + window.width
        if self._left is not None and self._left_end == window.col:
            self._join(left, self._left)
        reach = slice(max(start - 1, 0), stop + 1)  # one column further on both sides: diagonal neighbours
        above = self._above[reach]
        top = np.zeros(above.size, dtype=np.int64)
        top[start - reach.start : stop - reach.start] = first
        self._join(top, above)
        self._current[start:stop] = last
        self._left, self._left_end = right, window.col + window.width

    def summary(self) -> dict[int, PatchSummary]:
        """Class code → its patches, for every code that occurred."""
        used = self._used
        roots = self._parent[:used].copy()
        while True:
            parents = roots[roots]
            if np.array_equal(parents, roots):
                break
            roots = parents
        sizes = np.bincount(roots, weights=self._size[:used], minlength=used).astype(np.int64)
        found: dict[int, PatchSummary] = {}
        codes = self._code[:used]
        is_root = roots == np.arange(used)
        is_root[0] = False
        for code in np.unique(codes[is_root]):
            of_code = sizes[is_root & (codes == code)]
            found[int(code)] = PatchSummary(int(of_code.size), int(of_code.max()))
        return found

    def _label(self, codes: NDArray[np.uint8], mapped: NDArray[np.bool_]) -> tuple[NDArray[np.int64], ...]:
        """Adds the patches of a block; their labels along its first and last row, first and last column (0: none)."""
        labels, sizes = label_block(codes, mapped)
        count = len(sizes)
        self._reserve(count)
        new = slice(self._used, self._used + count)
        self._parent[new] = np.arange(new.start, new.stop)
        self._size[new] = sizes
        if pixel_loops.fits(codes, labels, types=(np.uint8, np.int32)):
            pixel_loops.loops.codes_of_labels(codes, labels, self._code[new])
        else:
            of_label = np.zeros(count + 1, dtype=np.uint8)
            of_label[labels.ravel()] = codes.ravel()
            self._code[new] = of_label[1:]
        lines = labels[0], labels[-1], labels[:, 0], labels[:, -1]
        numbered = tuple(np.where(line > 0, line + np.int64(self._used - 1), np.int64(0)) for line in lines)
        self._used += count
        return numbered

    def _reserve(self, count: int) -> None:
        need = self._used + count
        if need > self._parent.size:
            grow = max(need, 2 * self._parent.size) - self._parent.size
            self._parent = np.concatenate([self._parent, np.zeros(grow, dtype=np.int64)])
            self._size = np.concatenate([self._size, np.zeros(grow, dtype=np.int64)])
            self._code = np.concatenate([self._code, np.zeros(grow, dtype=np.uint8)])

    def _join(self, ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> None:
        # Two lines of pixels side by side: each touches its opposite and the two beside that one.
        if pixel_loops.fits(ours, theirs, types=(np.int64, np.int64)):
            pixel_loops.loops.join_lines(ours, theirs, self._parent, self._code)
            return
        pairs = np.concatenate(
            [
                np.stack([ours, theirs]),
                np.stack([ours[1:], theirs[:-1]]),
                np.stack([ours[:-1], theirs[1:]]),
            ],
            axis=1,
        )
        same = (pairs[0] > 0) & (pairs[1] > 0) & (self._code[pairs[0]] == self._code[pairs[1]])
        for a, b in np.unique(pairs[:, same], axis=1).T.tolist():
            self._union(a, b)

    def _union(self, a: int, b: int) -> None:
        a, b = self._find(a), self._find(b)
        if a != b:
            self._parent[max(a, b)] = min(a, b)

    def _find(self, label: int) -> int:
        parent = self._parent
        while parent[label] != label:
            parent[label] = parent[parent[label]]  # path halving
            label = int(parent[label])
        return label


def label_block(codes: NDArray[np.uint8], mapped: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Numbers the 8-connected components of equal codes from 1 on, row by row; 0 is what is not mapped.

    Args:
        codes: uint8 ``[h, w]``.
        mapped: bool ``[h, w]``.

    Returns:
        int32 ``[h, w]``, and the sizes of the components: int64 ``[n]``, pixels.
    """
    if pixel_loops.fits(codes, mapped, types=(np.uint8, np.bool_)):
        labels = np.empty(codes.shape, np.int32)
        parent, sizes = np.empty(codes.size + 1, np.int32), np.empty(codes.size + 1, np.int64)
        count = pixel_loops.loops.label_block(codes, mapped, labels, parent, sizes)
        return labels, sizes[1 : count + 1]
    from skimage.measure import label

    # All classes at once: a component is of equal values, and 0 is the background.
    values = np.where(mapped, codes + np.uint16(1), np.uint16(0))
    found, count = label(values, background=0, connectivity=2, return_num=True)  # type: ignore[no-untyped-call]
    return found.astype(np.int32), np.bincount(found.ravel(), minlength=count + 1)[1:]
