from __future__ import annotations

import logging
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import pipeline.training.simulated
import spex_core.initial_model
from pipeline.chips.chip_folder import ChipFolder
from pipeline.errors import ConfigError
from pipeline.machine.progress import LogProgress
from pipeline.training import TrainFile
from pipeline.training.simulated import simulated_folder, write_simulated
from pipeline.training.sources import open_sources, with_chips_made
from spex_core.batches import Kind
from spex_core.initial_model import band_statistics, initial_model
from spex_core.legend import Legend
from tests.pipeline.training.conftest import training_document, training_file, write_chips


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"stages": [{"kind": "prompt", "steps": 1, "crop_px": 100}]},
            r"stages\.0\.crop_px: 100 is not a multiple of 32",
        ),
        (
            {"stages": [{"kind": "guess", "steps": 1}]},
            r"stages\.0\.kind: .*'words', 'prompt' or 'describe'",
        ),
        ({"sources": [{"name": "a", "kind": "tiff"}]}, r"sources\.0: .*'simulated', 'chips', 'shards'"),
        (
            {"sources": [{"name": "shore", "kind": "simulated", "count": 9, "first_seed": 899_990}]},
            r"sources\.0\.simulated: 9 chips from seed 899990 on may reach the evaluation's seeds",
        ),
        ({"validation": {"source": "lake"}}, r"there is no source lake; sources are shore"),
        ({"compute": {"workers": 3}}, r"stage 1: a batch of 2 cannot be shared by 3 workers"),
        ({"model": {"init": "x", "config": {"channels": 8}}}, r"model: config is of fresh models"),
        ({"learning_rate": 1}, r"learning_rate: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_field_is_named(workplace: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        training_file(workplace, **change)


def test_paths_start_at_the_file_and_options_at_the_current_folder(tmp_path: Path) -> None:
    file = TrainFile.from_dict(training_document(cache="cache"), tmp_path)
    assert (file.output, file.cache_folder) == (tmp_path / "out", tmp_path / "cache")
    assert file.sources[0].folder == tmp_path / "chips"
    assert file.model.init == str(tmp_path / "tiny")
    changed = file.with_options(Path("elsewhere"), 2, None)
    assert (changed.output, changed.compute.workers) == (Path.cwd() / "elsewhere", 2)
    assert changed.sources == file.sources


def test_held_out_chips_are_never_drawn_and_a_missing_optional_source_is_told(
    workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sources = [
        {"name": "shore", "kind": "chips", "folder": "chips", "balanced": True},
        {"name": "real", "kind": "chips", "folder": "nowhere", "optional": True, "share": 3},
    ]
    file = training_file(workplace, sources=sources, validation={"source": "shore", "chips": 2})
    logging.getLogger("pipeline").propagate = True
    with caplog.at_level(logging.INFO, "pipeline"):
        chips = open_sources(file, Legend.from_yaml(), LogProgress())
    assert "source real" in caplog.text
    assert "is missing; training goes on without it" in caplog.text
    ((drawn, share),) = chips.sources
    whole = ChipFolder(workplace / "chips", Legend.from_yaml())
    assert share == 1
    assert all(np.array_equal(drawn.chip(index)[0], whole.chip(0)[0]) for index in (0, 7, len(drawn) - 1))
    assert chips.validation is not None
    assert list(chips.validation[1]) == [1, 2]


def test_a_stage_without_any_source_left_is_an_error(workplace: Path) -> None:
    sources = [
        {"name": "shore", "kind": "chips", "folder": "chips"},
        {"name": "real", "kind": "chips", "folder": "nowhere", "optional": True},
    ]
    stages = [{"kind": "words", "steps": 1, "batch": 2, "shares": {"real": 1}}]
    with pytest.raises(ConfigError, match="stage 1 has no source left to draw from: real"):
        open_sources(training_file(workplace, sources=sources, stages=stages), Legend.from_yaml())


def test_a_crop_larger_than_the_chips_is_told_before_the_training(workplace: Path) -> None:
    stages = [{"kind": "words", "steps": 1, "batch": 2, "crop_px": 96}]
    with pytest.raises(ConfigError, match="stage 1: crop_px 96 is more than the 64 px of source shore"):
        open_sources(training_file(workplace, stages=stages), Legend.from_yaml())


def test_rare_classes_are_drawn_more_often_from_a_balanced_source(tmp_path: Path) -> None:
    folder = write_chips(tmp_path / "chips", count=8, size_px=32)
    codes = np.load(folder / "codes.npy")
    codes[:] = 10
    codes[5] = 80
    np.save(folder / "codes.npy", codes)
    sources = [{"name": "shore", "kind": "chips", "folder": "chips", "balanced": True}]
    chips = open_sources(training_file(tmp_path, sources=sources, validation=None), Legend.from_yaml())
    ((drawn, _),) = chips.sources
    water = Legend.from_yaml().codes.index(80)
    share = np.mean([drawn.chip(index)[1][water].mean() for index in range(0, len(drawn), 20)])
    assert share > 0.2  # one chip of eight


def test_simulated_chips_are_made_once_and_go_on_where_they_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.training.simulated, "CHIP_PX", 64)
    monkeypatch.setattr(pipeline.training.simulated, "SAVE_EVERY", 1)
    whole = ChipFolder(simulated_folder(tmp_path / "a", 3, 10_000, LogProgress()), Legend.from_yaml())

    class Stopped(LogProgress):
        def advance(self, amount: int = 1) -> None:
            if (tmp_path / "b").exists() and '"chips": 1' in next((tmp_path / "b").rglob("made.json")).read_text():
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulated_folder(tmp_path / "b", 3, 10_000, Stopped())
    folder = simulated_folder(tmp_path / "b", 3, 10_000, LogProgress())
    resumed = ChipFolder(folder, Legend.from_yaml())
    for index in range(3):
        for left, right in zip(whole.chip(index), resumed.chip(index), strict=True):
            assert np.array_equal(left, right)
    before = folder.stat().st_mtime_ns
    document = training_document(
        sources=[{"name": "shore", "kind": "simulated", "count": 3, "first_seed": 10_000}], cache="b"
    )
    made = with_chips_made(TrainFile.from_dict(document, tmp_path), LogProgress())
    assert (made.sources[0].kind, made.sources[0].folder) == ("chips", folder)
    assert folder.stat().st_mtime_ns == before


@pytest.mark.long
def test_several_processes_make_the_chips_that_one_makes(tmp_path: Path) -> None:
    for processes in (1, 2):
        write_simulated(tmp_path / str(processes), 3, 10_000, processes=processes)
    one, two = (ChipFolder(tmp_path / str(processes), Legend.from_yaml()) for processes in (1, 2))
    for index in range(3):
        assert np.array_equal(one.chip(index)[0], two.chip(index)[0])
        assert np.array_equal(one.chip(index)[1], two.chip(index)[1])
        np.testing.assert_allclose(one.class_shares(index), one.chip(index)[1].mean((1, 2)), atol=0.02)


def test_a_fresh_model_is_measured_on_its_chips_and_reads_their_prompts(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spex_core.initial_model, "ANSWERED_MAPS", 10)
    legend = Legend.from_yaml()
    chips = ChipFolder(workplace / "chips", legend)
    mean, std = band_statistics(chips)
    assert 0.01 < mean[6] < 0.30 < mean[6] + 2 * std[6]
    small = {"channels": 8, "depths": [1, 1, 1, 1], "aggregator_channels": 32, "band_encoding": True}
    model = initial_model(chips, legend, 3, vocabulary=500, config=small)
    assert model.config.band_mean == tuple(mean)
    assert model.config.text.vocab_size == len(model.processor.tokenizer) <= 500
    questions = model.processor.questions(chips.chip(0)[0], legend)
    ids = model.processor.encode(questions, None).suffix_ids
    assert ids.max() < model.config.text.vocab_size
    again = initial_model(chips, legend, 3, vocabulary=500, config=small)
    assert all(value.equal(again.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[3] / "workflows" / "training").glob("*.yaml")))
def test_the_training_files_of_the_project_can_be_used_as_they_are(file: Path) -> None:
    config = TrainFile.from_yaml(file)
    kinds = [stage.kind for stage in config.stages]
    every = list(get_args(Kind))
    assert kinds == sorted(kinds, key=every.index)
    assert kinds[-1] == "describe"
    assert kinds == every or file.stem != "quick"  # the quick one shows every stage
    assert all(source.optional for source in config.sources if source.kind != "simulated")
