"""Blending weights: a partition of unity that rises smoothly and leaves a tile's border pixels out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.planning.lattice import contributing_window, lattice_shape, lattice_tile
from pipeline.predict.stitch import tile_weights
from pipeline.records.plan import Window
from pipeline.records.windows import slices
from pipeline.settings.run_file import TilingConfig
from tests.pipeline.small_plans import zone_of


@st.composite
def tilings(draw: st.DrawFn) -> TilingConfig:
    tile_px = draw(st.sampled_from([32, 64, 96]))
    overlap_px = 2 * draw(st.integers(0, tile_px // 4))
    margin_px = draw(st.one_of(st.none(), st.integers(0, overlap_px // 2)))
    block_px = draw(st.sampled_from([64, 80, 112, 256]))
    return TilingConfig(tile_px=tile_px, overlap_px=overlap_px, margin_px=margin_px, block_px=block_px)


sides = st.integers(1, 210)


@settings(max_examples=150, deadline=None)
@given(tiling=tilings(), height=sides, width=sides)
def test_weights_sum_to_one_at_every_pixel_and_are_zero_elsewhere(
    tiling: TilingConfig, height: int, width: int
) -> None:
    grid = zone_of(height, width, tiling).grid
    rows, cols = lattice_shape(grid, tiling)
    frame = Window(-tiling.tile_px, -tiling.tile_px, height + 2 * tiling.tile_px, width + 2 * tiling.tile_px)
    total = np.zeros((frame.height, frame.width))
    for row in range(rows):
        for col in range(cols):
            tile = lattice_tile(row, col, grid, tiling)
            weights = tile_weights(grid, tile, tiling)
            assert weights.dtype == np.float32
            assert weights.min() >= 0
            reach = contributing_window(tile, grid, tiling)
            inside = slices(reach, tile.window)
            assert weights[inside].min() > 0, "the reach of a tile is where it weighs something"
            assert np.count_nonzero(weights) == reach.height * reach.width
            total[slices(tile.window, frame)] += weights
    expected = np.zeros_like(total)
    expected[slices(Window(0, 0, height, width), frame)] = 1
    np.testing.assert_allclose(total, expected, atol=3e-7)


@settings(max_examples=100, deadline=None)
@given(tiling=tilings(), height=sides, width=sides)
def test_border_pixels_of_a_tile_weigh_nothing_except_at_the_border_of_the_map(
    tiling: TilingConfig, height: int, width: int
) -> None:
    assume(tiling.margin > 0)
    grid = zone_of(height, width, tiling).grid
    rows, cols = lattice_shape(grid, tiling)
    tile = lattice_tile(rows // 2, cols // 2, grid, tiling)
    weights, margin = tile_weights(grid, tile, tiling), tiling.margin
    if rows // 2 > 0:
        assert not weights[:margin].any()
    if cols // 2 > 0:
        assert not weights[:, :margin].any()
    if rows // 2 < rows - 1:
        assert not weights[-margin:].any()
    if cols // 2 < cols - 1:
        assert not weights[:, -margin:].any()


def test_a_tile_larger_than_the_map_decides_alone() -> None:
    tiling = TilingConfig(tile_px=256, overlap_px=64, block_px=64)
    grid = zone_of(50, 70, tiling).grid
    assert lattice_shape(grid, tiling) == (1, 1)
    weights = tile_weights(grid, lattice_tile(0, 0, grid, tiling), tiling)
    top, left = 32 + 16, 32  # the grid begins 16 px below a multiple of 32 px from the zone's origin
    assert weights[top : top + 50, left : left + 70].min() == 1
    assert weights.sum() == 50 * 70


def test_without_overlap_every_pixel_has_one_tile() -> None:
    tiling = TilingConfig(tile_px=64, overlap_px=0, block_px=64)
    grid = zone_of(130, 64, tiling).grid
    assert lattice_shape(grid, tiling) == (3, 1)
    for row in range(3):
        weights = tile_weights(grid, lattice_tile(row, 0, grid, tiling), tiling)
        assert set(np.unique(weights)) <= {0.0, 1.0}


def test_weights_rise_smoothly_over_the_overlap() -> None:
    tiling = TilingConfig(tile_px=64, overlap_px=32, margin_px=8, block_px=64)
    grid = zone_of(200, 200, tiling).grid
    ramp = tile_weights(grid, lattice_tile(2, 2, grid, tiling), tiling)[32, :32]
    assert not ramp[:8].any()
    assert (ramp[24:] == 1).all()
    assert (np.diff(ramp[7:25]) > 0).all()
    assert np.diff(ramp).max() < 0.11  # pi/2 / 16: the steepest step of a raised cosine over 16 px


def test_a_tile_off_the_lattice_is_refused() -> None:
    tiling = TilingConfig(tile_px=64, overlap_px=32, block_px=64)
    grid = zone_of(200, 200, tiling).grid
    with pytest.raises(ValueError, match="not on the lattice"):
        tile_weights(grid, type(lattice_tile(0, 0, grid, tiling))(0, Window(-15, -16, 64, 64)), tiling)
