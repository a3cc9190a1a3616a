"""Tiles into scores: missing pixels, fixed micro-batches, the GPU's complaint, identity of the classifier."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.planning.blocks import plan_blocks
from pipeline.predict.classifier import (
    BlockClassifier,
    ClassifierSettings,
    IndexRules,
    MicroBatch,
    cut_tile,
    fill_invalid,
    load_classifier,
    scored_tiles,
)
from pipeline.predict.stitch import HostArrays, merge
from pipeline.records.plan import Tile, Window, ZoneGrid, ZonePlan
from pipeline.records.windows import slices
from pipeline.settings.model import INDEX_RULES, classifier_fingerprint
from pipeline.settings.run_file import ModelConfig, TilingConfig
from spex_core.errors import CheckpointError
from spex_core.legend import Legend

LEGEND = Legend.from_yaml()
Array = npt.NDArray[np.float32]


class Recorder:
    """Answers each tile with its own first pixel, and notes the sizes of batches."""

    def __init__(self, fail: Exception | None = None, above: int = 0) -> None:
        self.sizes: list[int] = []
        self.arrays = HostArrays()
        self.notes: list[str] = []
        self._fail, self._above = fail, above

    def fingerprint(self) -> str:
        return "recorder"

    def scores(self, pixels: Array) -> Array:
        self.sizes.append(len(pixels))
        if self._fail is not None and len(pixels) > self._above:
            raise self._fail
        return np.broadcast_to(pixels[:, :1, :1, :1], (len(pixels), 2, *pixels.shape[2:])).astype(np.float32)

    def device_scores(self, pixels: Array) -> Array:
        return self.scores(pixels)


class OutOfMemoryError(RuntimeError):
    """By its name, what torch raises when the GPU is full."""


def tiles(*values: float) -> list[Array]:
    return [np.full((10, 4, 4), value, np.float32) for value in values]


def run(classifier: Recorder, images: list[Array], size: int) -> list[float]:
    found = scored_tiles(classifier, images, classes=2, batch=MicroBatch(size))
    return [float(scores[0, 0, 0]) for scores in found]


def test_missing_pixels_become_the_mean_of_their_band() -> None:
    tile = np.arange(160, dtype=np.float32).reshape(10, 4, 4)
    tile[:, 0, :] = np.nan
    filled = fill_invalid(tile)
    assert filled is not None
    for band in range(10):
        assert filled[band, 0] == pytest.approx(np.nanmean(tile[band]))
    assert np.array_equal(filled[:, 1:], tile[:, 1:])


def test_a_whole_tile_is_taken_as_it_is_and_the_model_gets_a_copy_that_it_may_write_into() -> None:
    class Overwrites(IndexRules):
        def device_scores(self, pixels: np.ndarray) -> np.ndarray:
            assert not np.shares_memory(pixels, tile)
            scores = super().device_scores(pixels)
            pixels[:] = 7.0
            return scores

    tile = tiles(0.5)[0]
    before = tile.copy()
    assert fill_invalid(tile) is tile
    list(scored_tiles(Overwrites(LEGEND), [tile], classes=len(LEGEND), batch=MicroBatch(1)))
    assert np.array_equal(tile, before)


def test_a_tile_without_any_pixel_is_nothing_to_classify() -> None:
    assert fill_invalid(np.full_like(tiles(0.5)[0], np.nan)) is None


def test_bands_that_a_run_does_not_read_stay_missing_and_the_others_are_filled() -> None:
    tile = tiles(0.5)[0]
    tile[[3, 8]] = np.nan
    tile[:, 0, 0] = np.nan
    filled = fill_invalid(tile)
    assert filled is not None
    missing = np.isnan(filled)
    assert missing[[3, 8]].all()
    assert not np.delete(missing, [3, 8], axis=0).any()


def test_tiles_keep_their_order_and_batches_their_size() -> None:
    recorder = Recorder()
    assert run(recorder, tiles(1, 2, 3, 4, 5), 2) == [1, 2, 3, 4, 5]
    assert recorder.sizes == [2, 2, 1]


def test_empty_tiles_get_zeros_and_take_no_place_in_a_batch() -> None:
    recorder = Recorder()
    assert run(recorder, tiles(np.nan, 1, np.nan, 2, 3, np.nan), 2) == [0, 1, 0, 2, 3, 0]
    assert recorder.sizes == [2, 1]


def test_no_tiles_give_no_scores() -> None:
    assert run(Recorder(), [], 4) == []


def test_a_full_gpu_halves_the_batch_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(OutOfMemoryError("CUDA out of memory"), above=1)
    assert run(recorder, tiles(1, 2, 3, 4, 5), 4) == [1, 2, 3, 4, 5]
    assert recorder.sizes == [4, 2, 1, 1, 1, 1, 1]
    assert "out of memory" in caplog.text


def test_what_did_not_fit_in_one_block_is_not_tried_in_the_next() -> None:
    recorder, batch = Recorder(OutOfMemoryError("CUDA out of memory"), above=2), MicroBatch(4)
    notes: list[str] = []
    for _ in range(3):
        list(scored_tiles(recorder, tiles(1, 2, 3, 4), classes=2, batch=batch, note=notes.append))
    assert recorder.sizes == [4, 2, 2, 2, 2, 2, 2]
    assert len(notes) == 1


def test_memory_is_released_when_nothing_holds_the_failed_pass_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    handled: list[BaseException | None] = []
    monkeypatch.setattr("pipeline.predict.classifier._release_gpu_memory", lambda: handled.append(sys.exception()))
    assert run(Recorder(OutOfMemoryError("CUDA out of memory"), above=1), tiles(1, 2), 2) == [1, 2]
    assert handled == [None]


def test_a_gpu_too_small_for_one_tile_is_an_error() -> None:
    with pytest.raises(OutOfMemoryError):
        run(Recorder(OutOfMemoryError("CUDA out of memory")), tiles(1, 2), 2)


def test_any_other_error_is_not_papered_over() -> None:
    recorder = Recorder(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        run(recorder, tiles(1, 2), 2)
    assert recorder.sizes == [2]


def test_a_tile_is_cut_where_its_window_says() -> None:
    image = np.arange(10 * 8 * 8, dtype=np.float32).reshape(10, 8, 8)
    tile = cut_tile(image, Window(-2, -2, 8, 8), Tile(0, Window(0, 1, 4, 4)))
    assert np.array_equal(tile, image[:, 2:6, 3:7])


def test_index_rules_scores_sum_to_one() -> None:
    pixels = np.random.default_rng(1).uniform(0, 0.6, (2, 10, 8, 8)).astype(np.float32)
    scores = load_classifier(ModelConfig(checkpoint=INDEX_RULES), LEGEND).scores(pixels)
    assert scores.shape == (2, len(LEGEND), 8, 8)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)


def test_blocks_of_an_actor_join_to_the_scores_of_the_whole_image() -> None:
    tiling = TilingConfig(tile_px=32, overlap_px=8, block_px=64)
    grid = ZoneGrid(32632, 0.0, 0.0, 10.0, 100, 90)
    zone = ZonePlan(grid, plan_blocks(grid, tiling, None), ())
    pad = 40  # tiles reach beyond the grid
    image = np.random.default_rng(2).uniform(0, 0.6, (10, grid.height + 2 * pad, grid.width + 2 * pad))
    image = image.astype(np.float32)
    whole = Window(-pad, -pad, *image.shape[1:])
    actor = BlockClassifier(ClassifierSettings(ModelConfig(checkpoint=INDEX_RULES), LEGEND, tiling, (zone,), 1, 0.0))
    actor.load()
    targets = {b.index: tuple(t.index for t in zone.blocks if b.index in t.needs) for b in zone.blocks}
    pieces = {}
    for block in zone.blocks:
        pixels = image[(slice(None), *slices(block.read_window, whole))]
        *found, report = actor.classify(0, block, targets[block.index], pixels)
        pieces |= {(block.index, target): piece for target, piece in zip(targets[block.index], found, strict=True)}
        assert report.memory.peak_mb > 0
    expected = IndexRules(LEGEND).scores(image[None])[0]
    for block in zone.blocks:
        scores = merge(block.window, [p for n in block.needs if (p := pieces[n, block.index]) is not None])
        np.testing.assert_allclose(scores, expected[(slice(None), *slices(block.window, whole))], atol=1e-6)


def test_the_fingerprint_follows_the_weights_and_the_legend(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    config = ModelConfig(checkpoint=str(tmp_path))
    first = classifier_fingerprint(config, LEGEND)
    assert classifier_fingerprint(config, LEGEND) == first
    weights.write_bytes(b"two")
    assert classifier_fingerprint(config, LEGEND) != first
    weights.unlink()
    with pytest.raises(CheckpointError, match="safetensors"):
        classifier_fingerprint(config, LEGEND)
    rules = ModelConfig(checkpoint=INDEX_RULES)
    other = Legend("two", "Two", LEGEND.classes[:2])
    assert classifier_fingerprint(rules, LEGEND) != classifier_fingerprint(rules, other)


LIGHT = """
import sys
for name in ("pydantic", "rasterio", "shapely", "pyproj", "odc", "ray", "stackstac", "pystac", "rich"):
    sys.modules[name] = None
import pipeline.predict.classifier, pipeline.predict.spex_model
from pipeline.simulation import simulate_chip
"""


def test_classifying_imports_neither_rasters_nor_run_files_nor_ray() -> None:
    """A GPU machine with torch and transformers alone can time the model as actors run it."""
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", LIGHT], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


ACTOR = """
import sys
from types import SimpleNamespace
sys.modules["torch._inductor"] = sys.modules["torch._dynamo"] = None
from pipeline.predict import classifier
from pipeline.settings.run_file import ModelConfig
classifier.load_classifier = lambda *_, **__: None
tiling = SimpleNamespace(tile_px=32)
classifier.BlockClassifier(classifier.ClassifierSettings(ModelConfig(), None, tiling, (), 1, 0.0)).load()
import torch
print(torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
"""


def test_an_actor_is_deterministic_without_the_compiler_of_torch() -> None:
    """Importing it takes as long as torch itself, and 140 MB, in every actor."""
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", ACTOR], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "True"]
