"""The temperature of a checkpoint: fitted, measured on other chips, written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.evaluation.temperature import write_temperature
from spex_core.configuration import SpexConfig
from spex_core.errors import CheckpointError
from spex_core.legend import Legend
from tests.spex_core.conftest import build_tiny_model
from workflows.calibrate import main


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    build_tiny_model(Legend.from_yaml()).save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def evaluation_file(tmp_path: Path, **settings: object) -> Path:
    sources = [{"simulated": {"chips": 4, "size_px": 64, "first_seed": 950_000}}]
    data = {"name": "calibration", "checkpoint": str(tmp_path / "checkpoint"), "sources": sources, **settings}
    path = tmp_path / "calibration.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_the_fit_is_written_only_when_asked_for(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = evaluation_file(tmp_path)
    before = (checkpoint / "config.json").read_text()
    assert main([str(file)]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["fitted_chips"], found["tested_chips"]) == (2, 2)
    assert found["temperature_before"] == 1.0
    assert (checkpoint / "config.json").read_text() == before
    assert main([str(file), "--write"]) == 0
    written = SpexConfig.from_pretrained(checkpoint).temperature
    assert written == pytest.approx(found["temperature_after"], abs=1e-3)
    # A second fit starts from what was written and finds nothing left to change.
    capsys.readouterr()
    assert main([str(file)]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["temperature_before"] == pytest.approx(written)
    assert again["temperature_after"] == pytest.approx(written, rel=0.02)
    assert np.isfinite(again["calibration_error_after"])


def test_nothing_but_the_temperature_changes(checkpoint: Path) -> None:
    before = json.loads((checkpoint / "config.json").read_text())
    write_temperature(checkpoint, 1.23456)
    assert json.loads((checkpoint / "config.json").read_text()) == {**before, "temperature": 1.2346}


def test_a_folder_without_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        write_temperature(tmp_path, 1.0)


def test_groups_are_refused(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = evaluation_file(tmp_path, groups={"water": [80], "land": [10, 20, 30, 40, 50, 60, 70, 90]})
    assert main([str(file)]) == 2
    assert "groups" in capsys.readouterr().err
