"""Spectral indices of a finished map, kept as means per class and cell of 8 x 8 px.

What explanations say of an index is its mean over the pixels of a class in a sub-region. Kept pixel by pixel, the eight
indices were four fifths of a run's store; as means of the classes of each cell they are a fiftieth of that, and the
mean over a sub-region made of whole cells is the same. Where a border cuts a cell, the class has there the mean of its
cell: 80 m of ground.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.machine import pixel_loops
from pipeline.records.grid import INDEX_CELL_PX
from pipeline.records.plan import Window

CELL_PX = INDEX_CELL_PX
INDEX_SCALE = 10_000
"""Stored index = round(index * INDEX_SCALE), INDEX_NODATA where there is none."""
INDEX_NODATA = -32768


def cell_means(codes: NDArray[np.uint8], indices: NDArray[np.int16], classes: Sequence[int]) -> NDArray[np.int16]:
    """Mean index of every class in every cell.

    Args:
        codes: uint8 ``[h, w]``, class codes; its first pixel is a cell's first.
        indices: int16 ``[I, h, w]``, round(index * INDEX_SCALE), INDEX_NODATA where not known.
        classes: Codes of the K classes; pixels of other codes count nowhere.

    Returns:
        int16 ``[I, K, ceil(h / 8), ceil(w / 8)]``; INDEX_NODATA where the class does not occur or has no index.
    """
    if pixel_loops.fits(codes, indices, types=(np.uint8, np.int16)):
        cells = (-(-size // CELL_PX) for size in codes.shape)
        found = np.empty((len(indices), len(classes), *cells), np.int16)
        pixel_loops.loops.cell_means(codes, indices, pixel_loops.code_positions(classes), INDEX_NODATA, found)
        return found
    window = Window(0, 0, *codes.shape)
    key, shape = _cell_of_class(codes, window, classes)
    bins = int(np.prod(shape))
    key = key.astype(np.intp)  # else bincount does so each time
    counts = np.bincount(key, minlength=bins + 1)
    means = np.full((len(indices), *shape), INDEX_NODATA, np.int16)
    for layer, index in zip(means, indices, strict=True):
        values, known = index.ravel(), counts
        if (unknown := values == INDEX_NODATA).any():
            known = np.bincount(key, ~unknown, minlength=bins + 1).astype(np.int64)
            values = np.where(unknown, np.int16(0), values)
        sums = np.bincount(key, values, minlength=bins + 1)  # float64: exact, far below 2**53
        there = known[:bins] > 0
        layer.ravel()[there] = np.rint(sums[:bins][there] / known[:bins][there])
    return means


def class_sums(
    codes: NDArray[np.uint8],
    inside: NDArray[np.bool_],
    window: Window,
    means: NDArray[np.int16],
    classes: Sequence[int],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sums of indices over the pixels of each class.

    Args:
        codes: uint8 ``[h, w]``, class codes.
        inside: bool ``[h, w]``, pixels that count.
        window: Where these pixels lie in the zone grid.
        means: int16 ``[I, K, rows, columns]`` of the cells that the window touches.
        classes: Codes of the K classes.

    Returns:
        int64 ``[I, K]``: sum of round(index * INDEX_SCALE), and how many pixels went into it.
    """
    if pixel_loops.fits(codes, inside, means, types=(np.uint8, np.bool_, np.int16)):
        pixels, sums = np.zeros(means.shape[1:], np.int32), np.zeros((2, *means.shape[:2]), np.int64)
        first, positions = (window.row % CELL_PX, window.col % CELL_PX), pixel_loops.code_positions(classes)
        cell_values = np.ascontiguousarray(means)
        pixel_loops.loops.class_sums(codes, inside, *first, cell_values, positions, INDEX_NODATA, pixels, *sums)
        return sums[0], sums[1]
    key, shape = _cell_of_class(codes, window, classes, inside)
    bins = int(np.prod(shape))
    counts = np.bincount(key, minlength=bins + 1)[:bins].reshape(shape)
    known = means != INDEX_NODATA
    weights = counts * known
    return (weights * np.where(known, means, 0)).sum(axis=(2, 3), dtype=np.int64), weights.sum(
        axis=(2, 3), dtype=np.int64
    )


def _cell_of_class(
    codes: NDArray[np.uint8], window: Window, classes: Sequence[int], inside: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int32], tuple[int, int, int]]:
    """For each pixel the flat position of its cell and class, and the shape ``(K, rows, columns)`` of these.

    Pixels that count nowhere get the position behind the last.
    """
    rows, row_cells = _cells(window.row, window.height)
    columns, column_cells = _cells(window.col, window.width)
    shape = (len(classes), row_cells, column_cells)
    first = np.full(256, -1, np.int32)  # of each class
    first[list(classes)] = np.arange(len(classes)) * (row_cells * column_cells)
    key = first[codes]
    nowhere = key < 0
    if inside is not None:
        nowhere |= ~inside
    key += rows[:, None] * np.int32(column_cells) + columns
    key[nowhere] = int(np.prod(shape))
    return key.ravel(), shape


def _cells(start: int, size: int) -> tuple[NDArray[np.int32], int]:
    """Cell of each of some rows or columns, counted from the first one touched, and how many are touched."""
    cells = (np.arange(start, start + size, dtype=np.int32) // CELL_PX) - start // CELL_PX
    return cells, int(cells[-1]) + 1
