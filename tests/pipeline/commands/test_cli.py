"""The command line: exit codes, one message per mistake, and no command before it works."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline.commands.cli import main
from pipeline.engine.submit import entrypoint
from pipeline.mapstore.journal import BlockFailed, BlockFinished, RunStarted
from pipeline.mapstore.store import RunStore, run_folder
from spex_core.legend import Legend
from tests.conftest import TINY_SETTINGS, tiny_config
from tests.pipeline.small_plans import run_config


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Handlers that the command line sets must not outlive a test."""
    yield
    logging.getLogger("pipeline").handlers.clear()
    logging.getLogger("pipeline").propagate = True
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def spex(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def run_file(folder: Path, archive: Path | None = None, **settings: object) -> Path:
    data = {**TINY_SETTINGS, "region": "region.geojson", "output": "out", **settings}
    if archive is not None:
        data["region"] = str(archive / "region.geojson")
        data["source"] = {"provider": "earth-search", "url": str(archive / "catalog.json")}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "../up"}, ["name"]),
        ({"start": "yesterday"}, ["start"]),
        ({"end": "2026-01-01"}, ["end", "before"]),
        ({"tiling": {"tile_px": 100, "overlap_px": 16}}, ["tiling", "32"]),
        ({"colour": "red"}, ["colour"]),
        ({"region": "nowhere.geojson"}, ["nowhere.geojson"]),
        ({"legend": "nowhere.yaml"}, ["nowhere.yaml"]),
        ({"model": {"checkpoint": "no-such-model"}}, ["no-such-model"]),
        ({"model": {"checkpoint": "index-rules", "device": "cuda"}}, ["gpus_per_actor"]),
        ({"model": {"precision": "float16"}}, ["model.precision", "bfloat16"]),
        ({"model": {"compile": "maybe"}}, ["model.compile", "auto"]),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    settings: dict[str, object], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert spex("run", str(run_file(tmp_path, **settings))) == 2
    messages = capsys.readouterr()
    told = [line for line in messages.err.splitlines() if "INFO" not in line]
    assert told[0].startswith("error: ")
    assert all(word in " ".join(told) for word in words)
    assert "Traceback" not in messages.err
    assert messages.out == ""


@pytest.mark.parametrize("command", ["plan", "run", "submit"])
def test_a_model_for_three_bands_is_refused_before_any_scene_is_looked_for(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "rgb"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "spex", "bands": ["red", "green", "nir"]}))
    # Neither the region nor the catalog is there: the model is what is looked at first.
    assert spex(command, str(run_file(tmp_path, model={"checkpoint": "./rgb"}))) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "INFO" not in line]
    assert len(errors) == 1
    assert "takes 3 bands (red green nir), but the run reads 10" in errors[0]


@pytest.mark.parametrize(
    "arguments", [("nonsense",), ("run",), ("run", "a.yaml", "--actors", "0"), ("demo", "--seed", "x"), ("status",)]
)
def test_bad_usage_is_exit_code_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert spex(*arguments) == 2
    assert "Usage" in capsys.readouterr().err


def test_a_file_that_is_not_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\x00\xff: [")
    assert spex("plan", str(path)) == 2
    assert "run.yaml" in capsys.readouterr().err


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert spex("--help") == 0
    listed = capsys.readouterr().out
    for command in ("demo", "plan", "run", "submit", "status", "doctor"):
        assert command in listed
        assert spex(command, "--help") == 0
        assert f"spex {command} " in capsys.readouterr().out.replace("\n", " ")


def test_plan_tells_scenes_and_cost_and_writes_its_file(
    tiny_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run_file(tmp_path, tiny_archive)
    assert spex("plan", str(file), "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["blocks"], len(document["scenes"])) == (4, 2)
    assert document["bytes_to_read"] > 0
    assert json.loads((tmp_path / "out" / "plan.json").read_text())["run_id"] == document["run_id"]
    assert spex("plan", str(file)) == 0
    out = capsys.readouterr().out
    assert all(scene in out for scene in document["scenes"])


def test_plan_with_nothing_to_map_is_exit_code_2(
    tiny_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run_file(tmp_path, tiny_archive, start="2020-01-01", end="2020-01-31")
    assert spex("plan", str(file)) == 2
    assert "2020-01" in capsys.readouterr().err


def test_status_tells_progress_failures_and_time_left(
    tiny_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pipeline

    plan = pipeline.plan(tiny_config(tiny_archive, tmp_path))
    store = RunStore.create(run_folder(tmp_path, plan.run_id), plan, Legend.from_yaml())
    with store.journal_writer() as journal:
        journal.append(RunStarted("2026-01-01T00:00:00+00:00", plan.run_id))
        journal.append(BlockFinished(32632, 0, 1.0, 1.0, "0" * 64))
        journal.append(BlockFailed(32632, 1, 3, "ReadError: B04 is gone"))
        assert spex("status", str(tmp_path)) == 0
        out = capsys.readouterr().out
        assert "running, 1 of 4 blocks, 1 given up" in out
        assert "B04 is gone" in out
        assert spex("status", str(tmp_path), "--json") == 0
    (state,) = json.loads(capsys.readouterr().out)["runs"]
    assert state["seconds_left"] > 0
    assert not state["driver_gone"]
    # The journal has no end, and nobody holds it any more: its driver was killed.
    assert spex("status", str(tmp_path)) == 0
    assert "interrupted (its driver is gone: run it again to go on), 1 of 4 blocks" in capsys.readouterr().out
    assert spex("status", str(tmp_path), "--json") == 0
    (state,) = json.loads(capsys.readouterr().out)["runs"]
    assert (state["stage"], state["driver_gone"], state["seconds_left"]) == ("interrupted", True, None)


def test_status_of_a_folder_without_runs_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert spex("status", str(tmp_path)) == 2
    assert "holds no run" in capsys.readouterr().err


def test_a_submitted_command_is_quoted_and_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = run_config(output="my out; rm -rf x")
    command = entrypoint(config, Path("a b.yaml"), actors=3, as_json=True)
    assert f"'{tmp_path}/a b.yaml'" in command
    assert f"'{tmp_path}/my out; rm -rf x'" in command
    assert command.endswith("--actors 3 --json")
    adapted = config.model_copy(update={"model": config.model.model_copy(update={"checkpoint": "/models/my own"})})
    told = entrypoint(adapted, Path("a.yaml"), actors=None, checkpoint=True, as_json=False)
    assert told.endswith("--checkpoint '/models/my own'")


@pytest.mark.ray
@pytest.mark.long
def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(tiny_archive: Path, tmp_path: Path) -> None:
    file = run_file(tmp_path, tiny_archive, tiling={"tile_px": 64, "overlap_px": 16, "block_px": 64})
    command = [sys.executable, "-m", "pipeline", "run", str(file), "--actors", "1"]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    first = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and first.poll() is None:
        if any('"block-finished"' in path.read_text() for path in tmp_path.glob("out/.spex/*/journal.jsonl")):
            break
        time.sleep(0.02)
    first.send_signal(signal.SIGINT)
    time.sleep(0.3)
    first.send_signal(signal.SIGINT)  # impatience breaks nothing
    _, said = first.communicate(timeout=60)
    assert first.returncode == 130, said
    assert "goes on from there" in said
    assert "Traceback" not in said
    second = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=200, env=environment)
    assert second.returncode == 0, second.stderr
    result = json.loads(second.stdout.splitlines()[-1])
    assert 0 < result["computed_blocks"] < result["blocks"]
