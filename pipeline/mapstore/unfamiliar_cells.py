"""How unlike anything the model was trained on: one score for each 2 x 2 px of a map.

Six of the ten bands have pixels of 20 m, so that at 10 m three of four scores would be said twice; and the mean of four
pixels is less noisy than one. Kept so, the layer takes less than a tenth of a byte per pixel of the map.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.records.plan import Window
from spex_core.familiarity import UNKNOWN, UNLIKE, Familiarity

CELL_PX = 2


def cell_means(reflectance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of the measured pixels of each cell.

    Args:
        reflectance: float32 ``[10, h, w]``; NaN where there is no measurement; its first pixel is a cell's first.

    Returns:
        float32 ``[10, ceil(h / 2), ceil(w / 2)]``; NaN where no pixel of the cell is measured.
    """
    height, width = reflectance.shape[1:]
    if height % CELL_PX or width % CELL_PX:
        padding = ((0, 0), (0, height % CELL_PX), (0, width % CELL_PX))
        reflectance = np.pad(reflectance, padding, constant_values=np.nan)
    means = np.empty((len(reflectance), -(-height // CELL_PX), -(-width // CELL_PX)), np.float32)
    for mean, band in zip(means, reflectance, strict=True):
        pairs = band[0::2] + band[1::2]
        np.add(pairs[:, 0::2], pairs[:, 1::2], out=mean)
        mean *= np.float32(0.25)
        unknown = np.isnan(mean)
        if not unknown.any():
            continue
        # Only a cell with a gap is looked at pixel by pixel: they are few, or nothing was measured at all.
        rows, columns = np.nonzero(unknown)
        four = np.stack([band[2 * rows + i, 2 * columns + j] for i in (0, 1) for j in (0, 1)])
        known = ~np.isnan(four)
        counts = known.sum(axis=0)
        sums = np.where(known, four, np.float32(0)).sum(axis=0)
        mean[rows, columns] = np.where(counts > 0, sums / np.maximum(counts, 1).astype(np.float32), np.float32(np.nan))
    return means


def cell_scores(statistic: Familiarity, reflectance: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Scores of the cells of an image, uint8 ``[ceil(h / 2), ceil(w / 2)]``, see :meth:`Familiarity.scores`."""
    return statistic.scores(cell_means(reflectance))


def pixels_of(cells: NDArray[np.uint8], window: Window) -> NDArray[np.uint8]:
    """Scores of the pixels of a window, uint8 ``[h, w]``.

    Args:
        cells: Those that the window touches, see :func:`pipeline.mapstore.layers.selection`.
        window: Of the zone's grid.
    """
    row, col = window.row % CELL_PX, window.col % CELL_PX
    pixels = cells.repeat(CELL_PX, axis=0).repeat(CELL_PX, axis=1)
    return pixels[row : row + window.height, col : col + window.width]


def count_unlike(codes: NDArray[np.uint8], mapped: NDArray[np.bool_], scores: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pixels of each class code that are unlike anything the model was trained on: int64 ``[256]``.

    Args:
        codes: uint8 ``[h, w]``, class codes.
        mapped: bool ``[h, w]``, pixels that count.
        scores: uint8 ``[h, w]``.
    """
    return np.bincount(codes[mapped & (scores >= UNLIKE) & (scores != UNKNOWN)], minlength=256)
