"""Means per class and cell lose nothing that a sub-region's mean needs, apart from the borders that cut a cell."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from pipeline.mapstore.index_cells import CELL_PX, INDEX_NODATA, cell_means, class_sums
from pipeline.records.plan import Window
from spex_core.indices import SPECTRAL_INDICES

CODES = (10, 40, 80)


def drawn(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    codes = draw.choice(np.array((0, *CODES), np.uint8), (height, width))
    indices = draw.integers(-10_000, 10_001, (len(SPECTRAL_INDICES), height, width)).astype(np.int16)
    indices[draw.random(indices.shape) < 0.1] = INDEX_NODATA
    return codes, indices


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), height=st.integers(1, 40), width=st.integers(1, 40))
def test_each_cell_holds_the_mean_of_its_classes(seed: int, height: int, width: int) -> None:
    codes, indices = drawn(seed, height, width)
    means = cell_means(codes, indices, CODES)
    assert means.shape == (len(SPECTRAL_INDICES), len(CODES), -(-height // CELL_PX), -(-width // CELL_PX))
    for row in range(means.shape[2]):
        for col in range(means.shape[3]):
            cell = (slice(row * CELL_PX, (row + 1) * CELL_PX), slice(col * CELL_PX, (col + 1) * CELL_PX))
            for channel, code in enumerate(CODES):
                for index, layer in enumerate(indices):
                    values = layer[cell][(codes[cell] == code) & (layer[cell] != INDEX_NODATA)]
                    expected = np.rint(values.mean()) if values.size else INDEX_NODATA
                    assert means[index, channel, row, col] == expected


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    start=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    size=st.tuples(st.integers(1, 34), st.integers(1, 34)),
)
def test_sums_count_each_pixel_with_the_mean_of_its_class_in_its_cell(
    seed: int, start: tuple[int, int], size: tuple[int, int]
) -> None:
    codes, indices = drawn(seed, 64, 64)
    means = cell_means(codes, indices, CODES)
    window = Window(*start, *size)
    at = (slice(start[0], start[0] + size[0]), slice(start[1], start[1] + size[1]))
    cells = tuple(slice(s.start // CELL_PX, -(-s.stop // CELL_PX)) for s in at)
    inside = np.random.default_rng(seed + 1).random(size) < 0.8
    sums, counts = class_sums(codes[at], inside, window, means[(..., *cells)], CODES)
    rows, cols = np.indices((64, 64)) // CELL_PX
    for channel, code in enumerate(CODES):
        chosen = inside & (codes[at] == code)
        for index in range(len(SPECTRAL_INDICES)):
            values = means[index, channel, rows, cols][at][chosen].astype(np.int64)
            values = values[values != INDEX_NODATA]
            assert (sums[index, channel], counts[index, channel]) == (values.sum(), values.size)


def test_the_mean_over_whole_cells_is_that_of_the_pixels() -> None:
    codes, indices = drawn(3, 64, 64)
    indices[indices == INDEX_NODATA] = 0
    window = Window(16, 8, 40, 48)
    at = (slice(16, 56), slice(8, 56))
    means = cell_means(codes, indices, CODES)[..., 2:7, 1:7]
    sums, counts = class_sums(codes[at], np.ones((40, 48), bool), window, means, CODES)
    for channel, code in enumerate(CODES):
        for index, layer in enumerate(indices):
            exact = layer[at][codes[at] == code].mean()
            assert abs(sums[index, channel] / counts[index, channel] - exact) <= 0.5  # of 1/10,000
