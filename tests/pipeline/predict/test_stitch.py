"""Blending: weights are a partition of unity, order decides the sum, and a local model leaves no seam."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from pipeline.planning.lattice import contributing_window, lattice_shape, lattice_tile
from pipeline.predict.stitch import Piece, TileAccumulator, contributions, finalise, merge, target_blocks, tile_weights
from pipeline.records.grid import intersection, slices
from pipeline.records.plan import Block, Window, ZonePlan
from pipeline.settings.run_file import TilingConfig
from tests.pipeline.small_plans import LEGEND, zone_of


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
    assert weights[32:82, 32:102].min() == 1
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


def _cut(image: np.ndarray, window: Window, halo: int) -> np.ndarray:
    """Pixels of a window of an image that is stored with ``halo`` extra pixels on each side."""
    return image[
        ..., window.row + halo : window.row + window.height + halo, window.col + halo : window.col + window.width + halo
    ]


def _stitched(image: np.ndarray, halo: int, zone: ZonePlan, tiling: TilingConfig, model) -> np.ndarray:  # type: ignore[no-untyped-def]
    pieces = {
        block.index: contributions(
            block,
            np.stack([model(_cut(image, t.window, halo)) for t in block.tiles]) if block.tiles else np.empty((0,)),
            zone,
            tiling,
        )
        for block in zone.blocks
    }
    scores = np.full((image.shape[0], zone.grid.height, zone.grid.width), np.nan, np.float32)
    for block in zone.blocks:
        needed = [pieces[n][block.index] for n in block.needs if block.index in pieces[n]]
        rows, cols = slices(block.window, Window(0, 0, zone.grid.height, zone.grid.width))
        scores[:, rows, cols] = merge(block.window, needed, classes=image.shape[0])
    return scores


@settings(max_examples=100, deadline=None)
@given(
    tile_px=st.sampled_from([32, 64]),
    margin_px=st.integers(1, 6),
    extra=st.integers(0, 4),
    block_px=st.sampled_from([64, 80, 112]),
    height=st.integers(1, 170),
    width=st.integers(1, 170),
)
def test_a_model_that_sees_no_further_than_the_margin_leaves_no_seam(
    tile_px: int, margin_px: int, extra: int, block_px: int, height: int, width: int
) -> None:
    tiling = TilingConfig(
        tile_px=tile_px, overlap_px=2 * (margin_px + min(extra, 2)), margin_px=margin_px, block_px=block_px
    )
    zone = zone_of(height, width, tiling)
    halo = 2 * tile_px
    image = np.random.default_rng(1).random((2, height + 2 * halo, width + 2 * halo), dtype=np.float32)

    def model(pixels: np.ndarray) -> np.ndarray:  # a convolution with receptive field margin, zero-padded like a CNN
        return ndimage.uniform_filter(pixels, (0, 2 * margin_px + 1, 2 * margin_px + 1), mode="constant").astype(
            np.float32
        )

    whole = _cut(model(image), Window(0, 0, height, width), halo)
    np.testing.assert_allclose(_stitched(image, halo, zone, tiling, model), whole, atol=2e-6)


def test_a_constant_stays_that_constant() -> None:
    tiling = TilingConfig(tile_px=64, overlap_px=24, block_px=80)
    zone = zone_of(190, 230, tiling)
    image = np.full((3, 190 + 256, 230 + 256), 0.25, np.float32)
    np.testing.assert_allclose(_stitched(image, 128, zone, tiling, lambda pixels: pixels), 0.25, rtol=3e-7)


@settings(max_examples=100, deadline=None)
@given(tiling=tilings(), height=sides, width=sides, seed=st.integers(0, 99))
def test_inside_the_area_nothing_is_lost_when_blocks_outside_are_not_planned(
    tiling: TilingConfig, height: int, width: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    centre = rng.uniform([600_000, 5_100_000 - height * 10], [600_000 + width * 10, 5_100_000])
    area = shapely.Point(*centre).buffer(rng.uniform(5, 900))
    zone = zone_of(height, width, tiling, area=area)
    total = np.zeros((height, width))
    for block in zone.blocks:
        for source in block.needs:
            ones = np.ones((len(zone.blocks[source].tiles), 1, tiling.tile_px, tiling.tile_px), np.float32)
            piece = contributions(zone.blocks[source], ones, zone, tiling).get(block.index)
            if piece is not None:
                total[slices(piece.window, Window(0, 0, height, width))] += piece.weight
    rows, cols = np.mgrid[0:height, 0:width]
    inside = shapely.contains_xy(area, 600_000 + (cols + 0.5) * 10, 5_100_000 - (rows + 0.5) * 10)
    np.testing.assert_allclose(total[inside], 1.0, atol=3e-7)
    assert total.max(initial=0.0) <= 1 + 3e-7


def _random_pieces(zone: ZonePlan, tiling: TilingConfig, seed: int = 0) -> dict[int, dict[int, Piece]]:
    rng = np.random.default_rng(seed)
    shape = (4, tiling.tile_px, tiling.tile_px)
    return {
        b.index: contributions(b, rng.random((len(b.tiles), *shape), dtype=np.float32), zone, tiling)
        for b in zone.blocks
    }


TILING = TilingConfig(tile_px=64, overlap_px=32, block_px=80)


def test_merging_does_not_depend_on_when_pieces_were_made() -> None:
    zone = zone_of(170, 170, TILING)
    first, again = _random_pieces(zone, TILING), _random_pieces(zone, TILING)
    for block in zone.blocks:
        a = merge(block.window, [first[n][block.index] for n in block.needs if block.index in first[n]])
        b = merge(block.window, [again[n][block.index] for n in block.needs if block.index in again[n]])
        assert a.tobytes() == b.tobytes()


def test_merging_leaves_its_pieces_as_they_were() -> None:
    zone = zone_of(170, 170, TILING)
    pieces = _random_pieces(zone, TILING)
    block = zone.blocks[4]
    needed = [pieces[n][block.index] for n in block.needs]
    before = [p.weighted_scores.tobytes() + p.weight.tobytes() for p in needed]
    assert merge(block.window, needed).tobytes() == merge(block.window, needed).tobytes()
    assert [p.weighted_scores.tobytes() + p.weight.tobytes() for p in needed] == before


def test_tiles_fed_one_by_one_give_the_bytes_of_tiles_fed_at_once() -> None:
    zone = zone_of(170, 170, TILING)
    block = zone.blocks[4]
    scores = np.random.default_rng(3).random((len(block.tiles), 4, 64, 64), dtype=np.float32)
    accumulator = TileAccumulator(block, zone, TILING)
    for tile, values in zip(block.tiles, scores, strict=True):
        accumulator.add(tile, values)
    streamed, at_once = accumulator.finish(), contributions(block, scores, zone, TILING)
    assert streamed.keys() == at_once.keys()
    for index in streamed:
        assert streamed[index].weighted_scores.tobytes() == at_once[index].weighted_scores.tobytes()
        assert streamed[index].weight.tobytes() == at_once[index].weight.tobytes()


def test_tiles_out_of_order_are_refused() -> None:
    zone = zone_of(170, 170, TILING)
    block = zone.blocks[0]
    accumulator = TileAccumulator(block, zone, TILING)
    with pytest.raises(ValueError, match="next"):
        accumulator.add(block.tiles[1], np.zeros((4, 64, 64), np.float32))
    with pytest.raises(ValueError, match="0 of its"):
        accumulator.finish()


def test_scores_that_do_not_fit_are_refused() -> None:
    zone = zone_of(170, 170, TILING)
    block = zone.blocks[0]
    accumulator = TileAccumulator(block, zone, TILING)
    with pytest.raises(ValueError, match="shape"):
        accumulator.add(block.tiles[0], np.zeros((4, 32, 64), np.float32))
    accumulator.add(block.tiles[0], np.zeros((4, 64, 64), np.float32))
    with pytest.raises(ValueError, match="classes"):
        accumulator.add(block.tiles[1], np.zeros((5, 64, 64), np.float32))
    with pytest.raises(ValueError, match="tiles, scores"):
        contributions(block, np.zeros((1, 4, 64, 64), np.float32), zone, TILING)


def test_a_missing_neighbour_leaves_its_pixels_to_the_tiles_that_arrived() -> None:
    zone = zone_of(170, 170, TILING)
    block = zone.blocks[4]
    ones = {
        b.index: contributions(b, np.full((len(b.tiles), 2, 64, 64), 0.5, np.float32), zone, TILING)
        for b in zone.blocks
    }
    arrived = [ones[n][block.index] for n in block.needs if n == block.index]
    merged = merge(block.window, arrived)
    seen = np.isfinite(merged[0])
    assert 0 < seen.mean() < 1
    np.testing.assert_allclose(merged[:, seen], 0.5, rtol=1e-6)


def test_a_block_without_any_piece_is_unknown_everywhere() -> None:
    merged = merge(Window(0, 0, 3, 4), [], classes=5)
    assert merged.shape == (5, 3, 4)
    assert np.isnan(merged).all()
    with pytest.raises(ValueError, match="number of classes"):
        merge(Window(0, 0, 3, 4), [])


def test_a_piece_of_another_block_is_refused() -> None:
    piece = Piece(Window(0, 0, 2, 2), np.zeros((1, 2, 2), np.float32), np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match="outside"):
        merge(Window(1, 0, 8, 8), [piece])


@settings(max_examples=100, deadline=None)
@given(tiling=tilings(), height=sides, width=sides)
def test_pieces_go_to_exactly_the_blocks_that_need_them(tiling: TilingConfig, height: int, width: int) -> None:
    zone = zone_of(height, width, tiling)
    sent: dict[int, set[int]] = {block.index: {block.index} for block in zone.blocks}
    for block in zone.blocks:
        for target, window in target_blocks(block, zone, tiling):
            sent[target].add(block.index)
            assert intersection(window, zone.blocks[target].window) == window
    assert {block.index: set(block.needs) for block in zone.blocks} == sent


# --- finalise -----------------------------------------------------------------------------------------------------


def _scores(*pixels: tuple[float, ...]) -> np.ndarray:
    """One row of pixels, each given by its first class scores; the others are zero."""
    scores = np.zeros((len(LEGEND), 1, len(pixels)), np.float32)
    for i, values in enumerate(pixels):
        scores[: len(values), 0, i] = values
    return scores


def test_the_highest_score_decides_and_a_tie_goes_to_the_first_class() -> None:
    layers = finalise(
        _scores((0.2, 0.8), (0.5, 0.5), (0.1, 0.45, 0.45)), np.ones((1, 3), np.uint8), np.ones((1, 3), bool), LEGEND
    )
    assert layers.landcover.tolist() == [[LEGEND.codes[1], LEGEND.codes[0], LEGEND.codes[1]]]
    assert layers.confidence.tolist() == [[80, 50, 45]]
    assert layers.scores[:2, 0, 0].tolist() == [51, 204]
    assert {layers.scores.dtype, layers.landcover.dtype, layers.confidence.dtype} == {np.dtype(np.uint8)}


def test_pixels_without_observation_outside_the_area_or_without_tiles_are_nodata() -> None:
    scores = _scores((1.0,), (1.0,), (1.0,), (np.nan,))
    valid_count = np.array([[3, 0, 3, 3]], np.uint8)
    mask = np.array([[True, True, False, True]])
    layers = finalise(scores, valid_count, mask, LEGEND)
    assert layers.landcover.tolist() == [[LEGEND.codes[0], 0, 0, 0]]
    assert layers.confidence.tolist() == [[100, 255, 255, 255]]
    assert not layers.scores[:, 0, 1:].any()


def test_zero_confidence_is_not_nodata() -> None:
    layers = finalise(_scores((0.004,)), np.ones((1, 1), np.uint8), np.ones((1, 1), bool), LEGEND)
    assert layers.confidence.tolist() == [[0]]


def test_layers_that_do_not_fit_the_legend_are_refused() -> None:
    with pytest.raises(ValueError, match="classes"):
        finalise(np.zeros((3, 2, 2), np.float32), np.ones((2, 2), np.uint8), np.ones((2, 2), bool), LEGEND)


def test_block_needs_itself_even_when_it_owns_no_tile() -> None:
    tiling = TilingConfig(tile_px=256, overlap_px=0, block_px=64)
    zone = zone_of(128, 128, tiling)
    owners: list[Block] = [block for block in zone.blocks if block.tiles]
    assert [block.index for block in owners] == [0]
    assert [block.needs for block in zone.blocks] == [(0,), (0, 1), (0, 2), (0, 3)]
