"""``spex run --dry-run``: what would be computed and what is done already, and not a file is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.machine.progress import LogProgress
from pipeline.mapstore.output_folders import run_lock
from pipeline.mapstore.store import RunStore, run_folder
from pipeline.runs.dry_run import look_ahead
from tests.conftest import tiny_config
from tests.pipeline.commands.test_cli import _quiet, run_file, spex

__all__ = ["_quiet"]


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_nothing_is_there_and_nothing_is_written(
    tiny_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run_file(tmp_path, tiny_archive)
    before = files(tmp_path)
    assert spex("run", str(file), "--dry-run", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["blocks_done"], document["blocks_to_compute"], document["published"]) == (0, 4, False)
    assert spex("run", str(file), "--dry-run") == 0
    assert "4 of 4 blocks would be computed, 0 are done already" in capsys.readouterr().out
    assert files(tmp_path) == before


def test_what_another_process_holds_and_what_is_damaged_is_seen(tiny_archive: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_archive, tmp_path / "out")
    ahead = look_ahead(config, LogProgress())
    RunStore.create(run_folder(config.output, ahead.prepared.plan.run_id), ahead.prepared.plan, ahead.prepared.legend)
    assert not look_ahead(config, LogProgress()).busy
    with run_lock(config.output, ahead.prepared.plan.run_id):
        ahead = look_ahead(config, LogProgress())
    assert (ahead.busy, ahead.blocks_done, ahead.blocks_to_compute) == (True, 0, 4)
