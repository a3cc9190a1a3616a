"""Blending: blocks join to one map of all tiles, order decides the sum, and a local model leaves no seam."""

from __future__ import annotations

import pickle
import random
from collections.abc import Sequence

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from pipeline.predict.stitch import Piece, TileAccumulator, merge, target_blocks
from pipeline.records.plan import Block, Tile, Window, ZonePlan
from pipeline.records.windows import intersection, slices
from pipeline.settings.run_file import TilingConfig
from tests.pipeline.predict.test_tile_weights import sides, tilings
from tests.pipeline.small_plans import zone_of


def _pieces(block: Block, scores: Sequence[np.ndarray], zone: ZonePlan, tiling: TilingConfig) -> dict[int, Piece]:
    """What one block's tiles, each with scores ``[K, t, t]``, add to each block that they touch."""
    accumulator = TileAccumulator(block, zone, tiling)
    for tile, values in zip(block.tiles, scores, strict=True):
        accumulator.add(tile, values)
    return accumulator.finish()


def _cut(image: np.ndarray, window: Window, halo: int) -> np.ndarray:
    """Pixels of a window of an image that is stored with ``halo`` extra pixels on each side."""
    return image[
        ..., window.row + halo : window.row + window.height + halo, window.col + halo : window.col + window.width + halo
    ]


def _stitched(image: np.ndarray, halo: int, zone: ZonePlan, tiling: TilingConfig, model) -> np.ndarray:  # type: ignore[no-untyped-def]
    pieces = {
        block.index: _pieces(
            block,
            [model(_cut(image, tile.window, halo)) for tile in block.tiles],
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
            ones = [np.ones((1, tiling.tile_px, tiling.tile_px), np.float32)] * len(zone.blocks[source].tiles)
            piece = _pieces(zone.blocks[source], ones, zone, tiling).get(block.index)
            if piece is not None:
                total[slices(piece.window, Window(0, 0, height, width))] += piece.weight
    rows, cols = np.mgrid[0:height, 0:width]
    inside = shapely.contains_xy(area, 600_000 + (cols + 0.5) * 10, 5_100_000 - (rows + 0.5) * 10)
    np.testing.assert_allclose(total[inside], 1.0, atol=3e-7)
    assert total.max(initial=0.0) <= 1 + 3e-7


def _random_pieces(zone: ZonePlan, tiling: TilingConfig, seed: int = 0) -> dict[int, dict[int, Piece]]:
    return _pieces_of(_random_scores(zone, tiling, seed), zone, tiling)


def _pieces_of(scores: dict[int, np.ndarray], zone: ZonePlan, tiling: TilingConfig) -> dict[int, dict[int, Piece]]:
    return {b.index: _pieces(b, [scores[tile.index] for tile in b.tiles], zone, tiling) for b in zone.blocks}


def _random_scores(zone: ZonePlan, tiling: TilingConfig, seed: int, classes: int = 4) -> dict[int, np.ndarray]:
    """Tile index → scores ``[K, t, t]`` of every planned tile."""
    rng = np.random.default_rng(seed)
    shape = (classes, tiling.tile_px, tiling.tile_px)
    return {tile.index: rng.random(shape, dtype=np.float32) for block in zone.blocks for tile in block.tiles}


TILING = TilingConfig(tile_px=64, overlap_px=32, block_px=80)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), order=st.randoms(use_true_random=False))
def test_merging_does_not_depend_on_who_made_the_pieces_or_when(seed: int, order: random.Random) -> None:
    zone = zone_of(170, 170, TILING)
    scores = _random_scores(zone, TILING, seed)
    expected = {
        block.index: merge(block.window, _arrived(block, _random_pieces(zone, TILING, seed))).tobytes()
        for block in zone.blocks
    }
    # Several workers at once, each with a block of its own in hand; their tiles come in any interleaving.
    waiting = order.sample(zone.blocks, len(zone.blocks))
    at_work: list[tuple[Block, TileAccumulator, list[Tile]]] = []
    messages: list[tuple[int, bytes]] = []
    workers = order.randint(1, 5)
    while waiting or at_work:
        if waiting and len(at_work) < workers:
            block = waiting.pop()
            at_work.append((block, TileAccumulator(block, zone, TILING), list(block.tiles)))
            continue
        turn = order.randrange(len(at_work))
        block, accumulator, tiles = at_work[turn]
        if tiles:
            accumulator.add(tiles[0], scores[tiles.pop(0).index])
        else:
            messages.append((block.index, pickle.dumps(accumulator.finish())))
            del at_work[turn]
    order.shuffle(messages)
    arrived = {source: pickle.loads(message) for source, message in messages}  # noqa: S301 (our own)
    merged = {
        block.index: merge(block.window, _arrived(block, arrived)).tobytes()
        for block in order.sample(zone.blocks, len(zone.blocks))
    }
    assert merged == expected


def _arrived(block: Block, pieces: dict[int, dict[int, Piece]]) -> list[Piece]:
    """The pieces for a block in the order that the plan fixes."""
    return [pieces[need][block.index] for need in block.needs if block.index in pieces[need]]


def test_another_order_of_the_pieces_gives_other_bytes() -> None:
    """Why the plan fixes the order: float sums depend on it."""
    zone = zone_of(170, 170, TILING)
    pieces = _random_pieces(zone, TILING)
    block = zone.blocks[4]
    ordered = _arrived(block, pieces)
    assert list(block.needs) == sorted(block.needs)
    assert merge(block.window, ordered).tobytes() != merge(block.window, ordered[::-1]).tobytes()


def test_merging_leaves_its_pieces_as_they_were() -> None:
    zone = zone_of(170, 170, TILING)
    pieces = _random_pieces(zone, TILING)
    block = zone.blocks[4]
    needed = [pieces[n][block.index] for n in block.needs]
    before = [p.weighted_scores.tobytes() + p.weight.tobytes() for p in needed]
    assert merge(block.window, needed).tobytes() == merge(block.window, needed).tobytes()
    assert [p.weighted_scores.tobytes() + p.weight.tobytes() for p in needed] == before


def _rise(distance: np.ndarray, tiling: TilingConfig) -> np.ndarray:
    """The weight at a number of pixels from a tile's edge, written down anew: nothing, a quarter sine squared, one."""
    ramp_px = tiling.overlap_px - 2 * tiling.margin
    with np.errstate(divide="ignore"):
        part = np.clip((distance + 0.5 - tiling.margin) / np.float64(ramp_px), 0, 1)
    return np.sin(np.pi / 2 * part) ** 2


def _dense_map(zone: ZonePlan, tiling: TilingConfig, scores: dict[int, np.ndarray]) -> np.ndarray:
    """Weighted mean of all planned tiles over the whole grid at once, float64 ``[K, height, width]``; NaN where none.

    Knows no blocks, pieces or windows: every tile is laid over the whole grid, pixel by pixel.
    """
    size = (zone.grid.height, zone.grid.width)
    stride, halo, side = tiling.tile_px - tiling.overlap_px, tiling.overlap_px // 2, tiling.tile_px
    # The grid of small_plans begins at 600 km east and 5100 km north, and tiles at multiples of 32 px from the origin.
    before = [-510_000 % min(32, stride), 60_000 % min(32, stride)]
    counts = [-(-(pixels + b) // stride) for pixels, b in zip(size, before, strict=True)]
    total, weight = 0.0, np.zeros(size)
    for tile, values in scores.items():
        axes, places = [], []
        for i, n, pixels, b in zip(divmod(tile, counts[1]), counts, size, before, strict=True):
            place = np.arange(pixels) + b - (i * stride - halo)
            inside = (place >= 0) & (place < side)
            first = np.ones(pixels) if i == 0 else _rise(place, tiling)
            last = np.ones(pixels) if i == n - 1 else _rise(side - 1 - place, tiling)
            axes.append(np.where(inside, first * last, 0))
            places.append(place.clip(0, side - 1))
        weights = np.outer(*axes)
        total = total + weights * values[:, places[0][:, None], places[1][None, :]].astype(np.float64)
        weight += weights
    with np.errstate(invalid="ignore"):
        return np.asarray(total / weight)


@settings(max_examples=60, deadline=None)
@given(tiling=tilings(), height=sides, width=sides, seed=st.integers(0, 2**16), whole=st.booleans())
def test_blocks_join_to_the_weighted_mean_of_all_tiles_over_the_whole_grid(
    tiling: TilingConfig, height: int, width: int, seed: int, whole: bool
) -> None:
    rng = np.random.default_rng(seed)
    centre = rng.uniform([600_000, 5_100_000 - height * 10], [600_000 + width * 10, 5_100_000])
    area = None if whole else shapely.Point(*centre).buffer(rng.uniform(5, 900))
    zone = zone_of(height, width, tiling, area=area)
    scores = _random_scores(zone, tiling, seed, classes=2)
    assume(scores)
    expected = _dense_map(zone, tiling, scores)
    pieces = _pieces_of(scores, zone, tiling)
    for block in zone.blocks:
        merged = merge(block.window, _arrived(block, pieces), classes=2)
        np.testing.assert_allclose(
            merged, expected[(slice(None), *slices(block.window, Window(0, 0, height, width)))], atol=1e-5
        )


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


def test_a_missing_neighbour_leaves_its_pixels_to_the_tiles_that_arrived() -> None:
    zone = zone_of(170, 170, TILING)
    block = zone.blocks[4]
    ones = {
        b.index: _pieces(b, [np.full((2, 64, 64), 0.5, np.float32)] * len(b.tiles), zone, TILING) for b in zone.blocks
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


def test_block_needs_itself_even_when_it_owns_no_tile() -> None:
    zone = zone_of(128, 128, TilingConfig(tile_px=256, overlap_px=0, block_px=64))
    assert [block.index for block in zone.blocks if block.tiles] == [0]
    assert [block.needs for block in zone.blocks] == [(0,), (0, 1), (0, 2), (0, 3)]
