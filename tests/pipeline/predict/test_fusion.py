"""Dates that are classified one by one: what is asked, how scores are joined, and what cannot show in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.planning.blocks import plan_blocks
from pipeline.predict.classifier import BlockClassifier, ClassifierSettings, IndexRules
from pipeline.predict.fusion import fused_tiles, look, looks
from pipeline.predict.stitch import LEAST_SCORE, VOTE_SCALE, HostArrays, Piece, merge
from pipeline.records.dated_pixels import DatedPixels
from pipeline.records.plan import Window, ZoneGrid, ZonePlan
from pipeline.records.windows import slices
from pipeline.settings.model import INDEX_RULES
from pipeline.settings.run_file import ModelConfig, TilingConfig
from spex_core.legend import Legend

LEGEND = Legend.from_yaml()
HOST = HostArrays()


def dated(rng: np.random.Generator, height: int, width: int, dates: int, clear: float = 0.6) -> DatedPixels:
    """Random dates, each in a layer of its own; some pixels have none, some were never observed."""
    layers = rng.uniform(0.01, 0.6, (dates, 10, height, width)).astype(np.float32)
    there = rng.random((dates, height, width)) < clear
    numbers = (there * np.arange(1, dates + 1)[:, None, None]).astype(np.uint16)
    layers[~np.broadcast_to(there[:, None], layers.shape)] = np.nan
    composite = rng.uniform(0.01, 0.6, (10, height, width)).astype(np.float32)
    composite[:, : height // 8, : width // 8] = np.nan
    numbers[:, : height // 8, : width // 8] = 0
    return DatedPixels(composite, layers, numbers)


def by_rules(images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    rules = IndexRules(LEGEND)
    for image in images:
        yield rules.scores(np.nan_to_num(image, nan=0.1)[None])[0]


def fused(tile: DatedPixels) -> np.ndarray:
    (found,) = fused_tiles([tile], by_rules, HOST)
    return np.asarray(found)


def test_scores_are_the_scaled_geometric_mean_of_each_pixels_own_dates() -> None:
    tile = dated(np.random.default_rng(1), 24, 24, 3)
    found, each = fused(tile), list(by_rules(np.nan_to_num(layer, nan=0.1) for layer in tile.layers))
    alone = next(by_rules([tile.composite]))
    logs = np.log(np.maximum(np.array(each, np.float64), LEAST_SCORE))
    own = (tile.numbers != 0)[:, None]
    count = own.sum(axis=0)
    mean = np.exp((logs * own).sum(axis=0) / np.maximum(count, 1))
    expected = np.where(count > 0, mean / mean.sum(axis=0), alone)
    observed = ~np.isnan(tile.composite[0])
    floor = np.where(count > 0, 0.0, LEAST_SCORE * len(LEGEND))  # a composite's lowest scores are lifted as well
    assert (np.abs(found - expected) <= 1e-5 + floor)[:, observed].all()
    assert np.allclose(found.sum(axis=0), 1.0, atol=1e-5)
    assert 0 in looks(tile)
    assert (count[0] == 0).any()


@given(seed=st.integers(0, 10_000), dates=st.integers(2, 5))
@settings(max_examples=15, deadline=None)
def test_neither_the_order_of_dates_nor_their_layers_show_in_a_byte(seed: int, dates: int) -> None:
    rng = np.random.default_rng(seed)
    tile = dated(rng, 16, 16, dates)
    order = rng.permutation(dates)
    renamed = np.concatenate([[0], rng.permutation(dates) + 1]).astype(np.uint16)
    layers, numbers = tile.layers[order].copy(), renamed[tile.numbers[order]]
    swap = rng.random((16, 16)) < 0.5  # these pixels have their dates in the layers of others
    layers[:, :, swap], numbers[:, swap] = layers[::-1][:, :, swap], numbers[::-1][:, swap]
    assert fused(DatedPixels(tile.composite, layers, numbers)).tobytes() == fused(tile).tobytes()


@pytest.mark.parametrize("dates", [0, 1])
def test_what_one_image_is_enough_for_has_its_scores_to_the_bit(dates: int) -> None:
    tile = dated(np.random.default_rng(2), 16, 16, 1, clear=1.0)
    composite = np.where(tile.numbers[0] != 0, tile.layers[0], np.nan).astype(np.float32)
    tile = DatedPixels(composite, tile.layers[:dates], tile.numbers[:dates])
    assert len(looks(tile)) == 1
    assert fused(tile).tobytes() == next(by_rules([composite])).tobytes()


def test_a_date_is_classified_only_where_it_has_a_pixel_and_with_the_composite_around_it() -> None:
    tile = dated(np.random.default_rng(3), 16, 32, 3)
    tile.numbers[1, :, 16:] = 0
    left, right = tile.cut(slice(0, 16), slice(0, 16)), tile.cut(slice(0, 16), slice(16, 32))
    assert 2 in looks(left)
    assert 2 not in looks(right)
    image, own = look(left, 2)
    assert np.array_equal(image[:, own], left.layers[1][:, own])
    assert np.array_equal(image[:, ~own], left.composite[:, ~own], equal_nan=True)
    rest = look(left, 0)[1]
    assert rest.any()
    assert not (rest & np.isnan(left.composite[0])).any()


def test_votes_of_all_dates_that_there_can_be_fit() -> None:
    assert 64 * abs(np.log(LEAST_SCORE)) * VOTE_SCALE < np.iinfo(np.int32).max


def test_the_models_device_sums_as_the_host_does() -> None:
    torch = pytest.importorskip("torch")
    from pipeline.predict.spex_model import DeviceArrays

    rng = np.random.default_rng(4)
    scores = rng.dirichlet(np.ones(9), (2, 8, 8)).astype(np.float32).transpose(0, 3, 1, 2)
    own = rng.random((2, 8, 8)) < 0.7
    device = DeviceArrays(torch.device("cpu"))
    found = []
    for arrays in (HOST, device):
        votes = [arrays.log_votes(s, o) for s, o in zip(scores, own, strict=True)]
        found.append(arrays.fetch(arrays.pooled(votes[0] + votes[1], own.sum(axis=0))))
    np.testing.assert_allclose(found[0], found[1], atol=2e-6)


def blocks_of(pixels: DatedPixels, grid: ZoneGrid, tiling: TilingConfig) -> np.ndarray:
    """The merged scores of a map: float32 [K, h, w]."""
    zone = ZonePlan(grid, plan_blocks(grid, tiling, None), ("a", "b"))
    actor = BlockClassifier(ClassifierSettings(ModelConfig(checkpoint=INDEX_RULES), LEGEND, tiling, (zone,), 1, 0.0))
    pieces: dict[int, list[Piece]] = {block.index: [] for block in zone.blocks}
    margin = tiling.tile_px
    for block in zone.blocks:
        rows, columns = slices(block.read_window, around(grid, margin))
        *found, _ = actor.classify(0, block, tuple(pieces), pixels.cut(rows, columns))
        for index, piece in zip(pieces, found, strict=True):
            if piece is not None:
                pieces[index].append(piece)
    out = np.zeros((len(LEGEND), grid.height, grid.width), np.float32)
    for block in zone.blocks:
        w = block.window
        out[:, w.row : w.row + w.height, w.col : w.col + w.width] = merge(w, pieces[block.index])
    return out


def around(grid: ZoneGrid, margin: int) -> Window:
    return Window(-margin, -margin, grid.height + 2 * margin, grid.width + 2 * margin)


def test_a_map_of_dates_does_not_depend_on_its_cut() -> None:
    grid = ZoneGrid(32632, 600_000.0, 5_100_000.0, 10.0, 96, 96)
    large = TilingConfig(tile_px=128, overlap_px=32, block_px=96)
    pixels = dated(np.random.default_rng(5), 96 + 2 * 128, 96 + 2 * 128, 3)
    small = TilingConfig(tile_px=64, overlap_px=32, block_px=64)
    inner = pixels.cut(slice(64, -64), slice(64, -64))
    observed = ~np.isnan(pixels.composite[0])[128:-128, 128:-128]
    found, expected = blocks_of(inner, grid, small), blocks_of(pixels, grid, large)
    np.testing.assert_allclose(found[:, observed], expected[:, observed], atol=1e-5)
    assert np.abs(expected - expected[:, :1, :1]).max() > 0.1
