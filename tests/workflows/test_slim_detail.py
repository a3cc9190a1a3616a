"""A cheaper detail branch learns a checkpoint's own scores; nothing else of the checkpoint changes."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipeline.training.config import TrainFile
from spex_core.batches import StepBatch
from spex_core.legend import Legend
from spex_core.modeling import SpexForLandCover
from spex_core.training_state import write_half_precision
from tests.spex_core.conftest import build_tiny_model
from workflows import slim_detail
from workflows.slim_detail import main, with_half_detail


def training_file(folder: Path, **settings: Any) -> Path:
    data = {
        "output": "out",
        "cache": "chips",
        "model": {"init": str(folder / "checkpoint")},
        "sources": [{"name": "simulated", "kind": "simulated", "count": 2, "first_seed": 10_005, "share": 1.0}],
        "stages": [{"kind": "words", "steps": 150, "batch": 2, "crop_px": 64}],
        "optimiser": {"learning_rate": 1e-2, "warmup_steps": 5, "ema_decay": 0.9},
        **settings,
    }
    path = folder / "slim.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.fixture
def teacher(tmp_path: Path) -> SpexForLandCover:
    model = build_tiny_model(Legend.from_yaml())
    with torch.no_grad():  # a fresh one says nearly the same everywhere
        model.mask_decoder.detail_hyper.proj_out.weight *= 20
    write_half_precision(model, tmp_path / "checkpoint")
    return SpexForLandCover.from_pretrained(tmp_path / "checkpoint")


@pytest.mark.long
def test_it_learns_the_scores_and_leaves_the_rest_alone(
    teacher: SpexForLandCover, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slim_detail, "LABEL_SAY", 0.0)  # this checkpoint has learnt nothing: labels would lead away
    caplog.set_level(logging.INFO)
    file = training_file(tmp_path)
    assert main([str(file), "--output", str(tmp_path / "slim")]) == 0
    said = [json.loads(record.message) for record in caplog.records if record.message.startswith("{")]
    assert [line["step"] for line in said] == [50, 100, 150]
    assert said[-1]["divergence"] < 0.8 * said[0]["divergence"]
    assert 0 <= said[-1]["masks"] < 0.5 * said[0]["masks"]
    student = SpexForLandCover.from_pretrained(tmp_path / "slim")
    assert (student.config.mask_detail, student.config.detail_channels) == ("half", 16)
    before = teacher.state_dict()
    for name, value in student.state_dict().items():
        if not name.startswith(("detail.", "mask_decoder.detail_hyper.")):
            assert torch.equal(value, before[name]), name


def test_labels_speak_where_they_are_certain(teacher: SpexForLandCover) -> None:
    legend = Legend.from_yaml()
    target = torch.zeros(1, len(legend), 64, 64)
    target[:, 0, :32], target[:, 1, 32:] = 1.0, 1.0
    weight = torch.ones(1, 64, 64)
    bands = torch.rand(1, 10, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.4
    prompts = teacher.class_word_prompts(legend).detach()

    def surprise(target: torch.Tensor, weight: torch.Tensor) -> float:
        batch = StepBatch(bands, target, weight, torch.full((1, 10), 10.0), None, None)
        divergence, _, found = slim_detail._losses(teacher, with_half_detail(teacher), prompts, batch)
        assert divergence > 0
        return float(found)

    torch.manual_seed(0)  # of the new branch
    everywhere = surprise(target, weight)
    weight[:, 32:] = 0.0
    torch.manual_seed(0)
    assert surprise(target, weight) != pytest.approx(everywhere, rel=1e-3)
    half = target.clone()
    half[:, :, 32:] = 0.5 * target[:, :, 32:] + 0.5 / len(legend)  # a teacher's opinion
    torch.manual_seed(0)
    unsure = surprise(half, torch.ones(1, 64, 64))
    torch.manual_seed(0)
    assert unsure == surprise(target, weight)
    assert surprise(target * 0.7, torch.ones(1, 64, 64)) == 0.0


def test_the_example_is_a_file_that_it_takes() -> None:
    file = TrainFile.from_yaml(Path(__file__).parents[2] / "workflows" / "examples" / "slim_detail.yaml")
    assert (Path(file.model.init or "").name, len(file.stages)) == ("full-detail", 1)
    assert all(source.optional for source in file.sources if source.kind != "simulated")


def test_its_pixels_know_no_window(teacher: SpexForLandCover) -> None:
    """Moved by two pixels, the same four pixels share a position again: tiles agree where they overlap."""
    student = with_half_detail(teacher)
    inputs = torch.randn(1, student.spectral_input.channels, 96, 96, generator=torch.Generator().manual_seed(0))
    levels = [torch.zeros(1, 8, 24, 24), torch.zeros(1, 16, 12, 12)]
    detail = student.detail
    assert detail is not None
    with torch.inference_mode():
        whole = detail(inputs, levels, torch.zeros(1, 32, 6, 6))
        assert whole.shape == (1, 16, 96, 96)
        part = detail(
            inputs[..., 32:, 34:66], [torch.zeros(1, 8, 16, 8), torch.zeros(1, 16, 8, 4)], torch.zeros(1, 32, 4, 2)
        )
    torch.testing.assert_close(part[..., 8:, 8:-8], whole[..., 40:, 42:58], rtol=1e-4, atol=1e-5)


def test_what_cannot_be_slimmed_is_refused(
    teacher: SpexForLandCover, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_half_detail(teacher).save_pretrained(tmp_path / "slim")
    assert main([str(training_file(tmp_path)), "--output", str(tmp_path / "slim")]) == 2
    assert "there already" in capsys.readouterr().err
    assert (
        main([str(training_file(tmp_path, model={"init": str(tmp_path / "slim")})), "--output", str(tmp_path / "x")])
        == 2
    )
    assert "mask_detail is half" in capsys.readouterr().err
    assert main([str(training_file(tmp_path, model={})), "--output", str(tmp_path / "x")]) == 2
    assert "needs model.init" in capsys.readouterr().err
