"""The command that converts published checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.commands.cli import main
from spex_core import SpexForLandCover
from tests.spex_core.published_state import random_state, tiny_published_config, write_published

CONFIG = tiny_published_config()


def spex(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code)


def test_a_published_checkpoint_is_converted_and_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = random_state(CONFIG)
    source = write_published(tmp_path / "published", state, CONFIG)
    assert spex("convert-checkpoint", source, tmp_path / "ours", "--json") == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["keys"] == len(state)
    weights = SpexForLandCover.from_pretrained(tmp_path / "ours").parameters()
    assert report["parameters"] == sum(weight.numel() for weight in weights)
    assert spex("convert-checkpoint", source, tmp_path / "again") == 0
    assert f"{len(state)} tensors" in capsys.readouterr().out


def test_what_is_no_published_checkpoint_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert spex("convert-checkpoint", tmp_path / "nothing", tmp_path / "ours") == 2
    assert "is not a folder with a published checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()
