"""A checkpoint as the engine holds it: precision, compiled vision, and sums on the device with the host's bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.fx
from torch._inductor.exc import InvalidCxxCompiler

from pipeline.planning.blocks import plan_blocks
from pipeline.predict.classifier import BlockClassifier, ClassifierSettings, load_classifier
from pipeline.predict.spex_model import DeviceArrays, SpexModel
from pipeline.predict.stitch import HostArrays, Piece, TileAccumulator
from pipeline.records.plan import ZoneGrid, ZonePlan
from pipeline.settings.run_file import ModelConfig, TilingConfig
from spex_core.errors import CheckpointError
from spex_core.legend import Legend
from tests.spex_core.conftest import build_tiny_model

LEGEND = Legend.from_yaml()
TILING = TilingConfig(tile_px=32, overlap_px=8, block_px=64)
GRID = ZoneGrid(32632, 0.0, 0.0, 10.0, 70, 60)
ZONE = ZonePlan(GRID, plan_blocks(GRID, TILING, None), ())
Array = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    build_tiny_model(LEGEND, band_encoding=True).save_pretrained(folder)
    return str(folder)


def reflectance(tiles: int, side: int, seed: int = 0) -> Array:
    """Vegetation, water and soil in squares, with noise."""
    spectra = np.array(
        [
            [0.03, 0.05, 0.03, 0.08, 0.22, 0.28, 0.30, 0.31, 0.15, 0.07],
            [0.05, 0.05, 0.03, 0.02, 0.01, 0.01, 0.01, 0.01, 0.005, 0.003],
            [0.10, 0.13, 0.17, 0.20, 0.22, 0.24, 0.26, 0.27, 0.33, 0.28],
        ]
    )
    rng = np.random.default_rng(seed)
    squares = rng.integers(0, 3, (tiles, side // 16, side // 16)).repeat(16, axis=1).repeat(16, axis=2)
    image = spectra[squares].transpose(0, 3, 1, 2) + rng.normal(0, 0.004, (tiles, 10, side, side))
    return np.maximum(image, 0.001).astype(np.float32)


def test_float32_on_the_host_is_what_the_model_predicts(checkpoint: str) -> None:
    pixels = reflectance(2, 64)
    model = SpexModel(ModelConfig(checkpoint=checkpoint), LEGEND, "cpu")
    own = build_tiny_model(LEGEND, band_encoding=True).predict(torch.from_numpy(pixels), LEGEND).scores
    assert own is not None
    assert model.scores(pixels).tobytes() == own.numpy().tobytes()
    assert model.device_scores(pixels).dtype == torch.float32


def test_bfloat16_moves_scores_little_and_classes_hardly(capsys: pytest.CaptureFixture[str]) -> None:
    pixels = reflectance(2, 128)
    exact = SpexModel(ModelConfig(), LEGEND, "cpu").scores(pixels)
    half = SpexModel(ModelConfig(precision="bfloat16"), LEGEND, "cpu").scores(pixels)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half.sum(axis=1), 1, rtol=1e-5)
    difference = np.abs(half - exact)
    same = float((half.argmax(axis=1) == exact.argmax(axis=1)).mean())
    with capsys.disabled():
        print(f"\nbfloat16: scores differ by {difference.mean():.1e}, at most {difference.max():.1e}; {same:.2%} same")
    assert 0 < difference.mean() < 0.005
    assert difference.max() < 0.25
    assert same > 0.98


def test_the_input_layer_stays_in_float32(checkpoint: str) -> None:
    model = SpexModel(ModelConfig(checkpoint=checkpoint, precision="bfloat16"), LEGEND, "cpu")
    seen: dict[str, torch.dtype] = {}

    def note(name: str) -> Any:
        return lambda module, given, result: seen.__setitem__(name, result.dtype)

    model._model.spectral_input.register_forward_hook(note("input"))
    model._model.spectral_input.encoding.generator.register_forward_hook(note("encoding"))
    model._model.encoder.stem.conv1.register_forward_hook(note("convolution"))
    model.scores(reflectance(1, 32))
    assert seen == {"input": torch.float32, "encoding": torch.float32, "convolution": torch.bfloat16}


def pieces(arrays: Any, scores: Array, as_given: Any) -> dict[int, dict[int, Piece]]:
    found = {}
    position = 0
    for block in ZONE.blocks:
        accumulator = TileAccumulator(block, ZONE, TILING, arrays)
        for tile in block.tiles:
            accumulator.add(tile, as_given(scores[position]))
            position += 1
        found[block.index] = accumulator.finish()
    return found


def test_sums_on_the_device_have_the_bytes_of_sums_on_the_host() -> None:
    tiles = sum(len(block.tiles) for block in ZONE.blocks)
    scores = np.random.default_rng(3).random((tiles, 5, 32, 32), np.float32)
    host = pieces(HostArrays(), scores, lambda tile: tile)
    device = pieces(DeviceArrays(torch.device("cpu")), scores, lambda tile: torch.from_numpy(tile.copy()))
    assert host.keys() == device.keys()
    for block, parts in host.items():
        assert parts.keys() == device[block].keys()
        for target, piece in parts.items():
            other = device[block][target]
            assert isinstance(other.weighted_scores, np.ndarray)
            assert other.weighted_scores.flags.c_contiguous
            assert piece.window == other.window
            assert piece.weighted_scores.tobytes() == other.weighted_scores.tobytes()
            assert piece.weight.tobytes() == other.weight.tobytes()


def test_what_goes_to_a_gpu_is_pinned_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []
    pinned: list[tuple[int, ...]] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda values: pinned.append(tuple(values.shape)) or values)
    monkeypatch.setattr(torch.Tensor, "to", lambda values, *_, **how: sent.append(how) or values)
    DeviceArrays(torch.device("cuda")).put(np.ones((4, 4), np.float32))
    assert pinned == [(4, 4)]
    assert sent == [{"non_blocking": True}]
    DeviceArrays(torch.device("cpu")).put(np.ones((4, 4), np.float32))
    assert len(pinned) == 1, "a CPU has nothing to pin"


def test_tiles_without_measurement_may_stand_between_tiles_on_a_device(checkpoint: str) -> None:
    settings = ClassifierSettings(ModelConfig(checkpoint=checkpoint), LEGEND, TILING, (ZONE,), 1, 0.0)
    block = ZONE.blocks[0]
    image = reflectance(1, 128)[0][:, : block.read_window.height, : block.read_window.width]
    image[:, :, :40] = np.nan  # the tiles at the left see nothing
    *found, report = BlockClassifier(settings).classify(0, block, (block.index,), image)
    sums = found[0].weighted_scores.sum(axis=0)
    assert report.notes == ()
    assert sums.min() == 0.0
    np.testing.assert_allclose(sums.max(), 1.0, rtol=1e-5)


def compiling(checkpoint: str, how: str) -> SpexModel:
    config = ModelConfig.model_validate({"checkpoint": checkpoint, "compile": how, "tiles_per_forward": 2})
    found = load_classifier(config, LEGEND, tile_px=32, tiles=8)
    assert isinstance(found, SpexModel)
    return found


def test_vision_compiles_whole_and_serves_full_batches_only(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(len(inputs))  # traced as for the real compiler, whose minutes a test cannot spend
        return graph.forward

    monkeypatch.setattr("pipeline.predict.spex_model.BACKEND", backend)
    pixels = reflectance(2, 32)
    plain, compiled = compiling(checkpoint, "off"), compiling(checkpoint, "on")
    assert compiled.notes == []
    assert graphs, "compiled before the first block"
    before = len(graphs)
    np.testing.assert_allclose(compiled.scores(pixels), plain.scores(pixels), atol=1e-6)
    assert compiled.scores(pixels[:1]).tobytes() == plain.scores(pixels[:1]).tobytes()
    assert len(graphs) == before, "neither a full nor a partial batch is compiled again"


def test_without_a_compiler_on_is_refused_and_auto_goes_on_and_says_so(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        raise InvalidCxxCompiler

    monkeypatch.setattr("pipeline.predict.spex_model.BACKEND", backend)
    with pytest.raises(CheckpointError, match=r"model\.compile is on, but .*compiler.*; set it to auto or off"):
        compiling(checkpoint, "on")
    monkeypatch.setattr("pipeline.predict.spex_model.compiles", lambda *_: True)  # as auto decides on a GPU
    model = compiling(checkpoint, "auto")
    assert len(model.notes) == 1
    assert "runs without torch.compile" in model.notes[0]
    pixels = reflectance(2, 32)
    assert model.scores(pixels).tobytes() == compiling(checkpoint, "off").scores(pixels).tobytes()
