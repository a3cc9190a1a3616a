"""Scores of 2 x 2 px: means of what is measured, kept in the store, read by any window, part of the sha256."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import StoreError
from pipeline.mapstore.layers import UNFAMILIAR
from pipeline.mapstore.store import RunStore
from pipeline.mapstore.unfamiliar_cells import cell_means, count_unlike, pixels_of
from pipeline.records.plan import Window
from pipeline.settings.run_file import TilingConfig
from spex_core.familiarity import UNKNOWN, UNLIKE
from tests.pipeline.small_plans import EPSG, LEGEND, plan_of, random_layers, zone_of

TILING = TilingConfig(tile_px=64, overlap_px=16, block_px=64)


@pytest.mark.parametrize("size", [(6, 8), (7, 5), (1, 1), (2, 9)])
def test_a_cell_is_the_mean_of_its_measured_pixels(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 1, (10, *size)).astype(np.float32)
    image[:, rng.random(size) < 0.4] = np.nan
    means = cell_means(image)
    for row, col in np.ndindex(means.shape[1:]):
        four = image[:, 2 * row : 2 * row + 2, 2 * col : 2 * col + 2].reshape(10, -1)
        known = four[:, np.isfinite(four[0])]
        if known.size:
            assert np.allclose(means[:, row, col], known.mean(axis=1), atol=1e-6)
        else:
            assert np.isnan(means[:, row, col]).all()


def test_scores_come_back_by_any_window_and_count_in_the_sha256(tmp_path: Path) -> None:
    plan = plan_of(zone_of(101, 150, TILING), tiling=TILING)
    store = RunStore.create(tmp_path, plan, LEGEND, unfamiliar=True)
    rng = np.random.default_rng(0)
    whole = rng.choice(np.array([0, 50, 99, UNKNOWN], np.uint8), (51, 75))
    for block in plan.zones[0].blocks:
        w = block.window
        layers = random_layers(rng, w.height, w.width)
        own = whole[w.row // 2 : -(-(w.row + w.height) // 2), w.col // 2 : -(-(w.col + w.width) // 2)]
        digest = store.write_block(EPSG, block, *layers, unfamiliar=own)
        assert store.block_sha256(EPSG, block) == digest
        assert store.write_block(EPSG, block, *layers, unfamiliar=own ^ np.uint8(1)) != digest
        with pytest.raises(StoreError, match="unfamiliar"):
            store.write_block(EPSG, block, *layers)
        store.write_block(EPSG, block, *layers, unfamiliar=own)
    pixels = whole.repeat(2, axis=0).repeat(2, axis=1)
    for window in (Window(0, 0, 101, 150), Window(63, 61, 5, 7), Window(100, 149, 1, 1), Window(64, 2, 20, 20)):
        found = pixels_of(store.zone(EPSG).read(UNFAMILIAR, window), window)
        rows, cols = slice(window.row, window.row + window.height), slice(window.col, window.col + window.width)
        assert np.array_equal(found, pixels[rows, cols])


def test_unlike_pixels_are_counted_by_class_and_unknown_ones_are_not() -> None:
    codes = np.array([[10, 10, 20, 20, 20]], np.uint8)
    scores = np.array([[UNLIKE, 100, UNKNOWN, 95, 99]], np.uint8)
    counts = count_unlike(codes, np.array([[True, False, True, True, True]]), scores)
    assert {int(code): int(n) for code, n in enumerate(counts) if n} == {10: 1, 20: 1}
