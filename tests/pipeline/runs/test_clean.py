"""``spex clean``: says first, frees what is of no use, keeps what is, and touches nothing that is not ours."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path

import pytest

import pipeline
from pipeline.errors import OutputError
from pipeline.mapstore.output_folders import MONTHLY_FOLDER, run_lock
from pipeline.mapstore.status import run_states
from pipeline.mapstore.store import RESULT_FILE, STATE_FOLDER, RunStore, run_folder
from pipeline.records.plan import MapPlan
from pipeline.runs.clean import free, take_stock
from spex_core.legend import Legend
from tests.conftest import tiny_config
from tests.pipeline.commands.test_cli import _quiet, spex

__all__ = ["_quiet"]
MAP = "spex-landcover/item/landcover.tif"


@pytest.fixture(scope="module")
def plan(tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> MapPlan:
    return pipeline.plan(tiny_config(tiny_archive, tmp_path_factory.mktemp("output")))


def finished(output: Path, plan: MapPlan, **result: object) -> Path:
    """What a run leaves, with a map of four bytes."""
    folder = run_folder(output, plan.run_id)
    RunStore.create(folder, plan, Legend.from_yaml())
    (folder / "journal.jsonl").touch()
    (output / MAP).parent.mkdir(parents=True, exist_ok=True)
    (output / MAP).write_text("map!")
    record = {"run_id": plan.run_id, "blocks": 4, "missing_blocks": 0, "incomplete_blocks": 0, "sizes": {MAP: 4}}
    (folder / RESULT_FILE).write_text(json.dumps({**record, **result}))
    return folder


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def test_it_says_first_and_frees_on_request(plan: MapPlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = finished(tmp_path, plan)
    before = everything(tmp_path)
    assert spex("clean", str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert str(folder) in out
    assert "nothing was freed" in out
    assert everything(tmp_path) == before
    assert spex("clean", str(tmp_path), "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["freed"], document["items"][0]["kind"]) == (False, "store")
    assert everything(tmp_path) == before
    assert spex("clean", str(tmp_path), "--yes", "--json") == 0
    after = json.loads(capsys.readouterr().out)
    assert after["freed"]
    assert after["bytes"] == document["bytes"] > 0
    state = f"{STATE_FOLDER}/{plan.run_id}"
    assert everything(tmp_path).keys() == {MAP, f"{state}/{RESULT_FILE}", f"{state}/cleaned-plan.json"}
    (run,) = run_states(tmp_path)
    assert (run.run_id, run.name, run.stage, run.cleaned, run.blocks) == (plan.run_id, "tiny", "complete", True, 4)
    assert not take_stock(tmp_path).removals


@pytest.mark.parametrize(("answer", "goes"), [("y\n", True), ("n\n", False), ("\n", False), ("", False)])
def test_at_a_terminal_it_asks(
    answer: str,
    goes: bool,
    plan: MapPlan,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = finished(tmp_path, plan)
    terminal = io.StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    assert spex("clean", str(tmp_path)) == 0
    assert "free " in capsys.readouterr().err
    assert (folder / "scores.zarr").exists() != goes


def test_one_that_was_cut_short_is_finished(plan: MapPlan, tmp_path: Path) -> None:
    folder = finished(tmp_path, plan)
    (folder / "plan.json").rename(folder / "cleaned-plan.json")
    assert free(take_stock(tmp_path)) > 0
    assert not (folder / "scores.zarr").exists()


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({"missing_blocks": 1}, "something is missing"),
        ({"incomplete_blocks": 2}, "something is missing"),
        ({"run_id": "another"}, "something is missing"),
        ({"sizes": {"gone.tif": 1}}, "not there any more"),
        ({"sizes": {"../../etc/passwd": 1}}, "not there any more"),
        ({"sizes": {"/etc/passwd": 1}}, "not there any more"),
        ({"sizes": {}}, "not there any more"),
        ({"sizes": 3}, "cannot be read"),
    ],
)
def test_what_a_run_may_still_need_stays(result: dict[str, object], reason: str, plan: MapPlan, tmp_path: Path) -> None:
    finished(tmp_path, plan, **result)
    before = everything(tmp_path)
    stock = take_stock(tmp_path)
    assert not stock.removals
    assert reason in stock.kept[0][1]
    assert free(stock) == 0
    assert everything(tmp_path) == before


def test_a_run_without_a_result_and_one_at_work_stay(plan: MapPlan, tmp_path: Path) -> None:
    folder = finished(tmp_path, plan)
    stock = take_stock(tmp_path)
    with run_lock(tmp_path, folder.name):
        held = take_stock(tmp_path)
        with pytest.raises(OutputError, match="being written by"):
            free(stock)
    assert not held.removals
    assert f"process {os.getpid()}" in held.kept[0][1]
    (folder / RESULT_FILE).unlink()  # between the look and the removal
    assert free(stock) == 0
    assert (folder / "scores.zarr").is_dir()
    assert "not finished" in take_stock(tmp_path).kept[0][1]


@pytest.mark.parametrize("where", ["state", "run", "inside"])
def test_links_are_never_followed(where: str, plan: MapPlan, tmp_path: Path) -> None:
    elsewhere, output = tmp_path / "elsewhere", tmp_path / "out"
    folder = finished(elsewhere, plan)
    before = everything(elsewhere)
    output.mkdir()
    (output / MAP).parent.mkdir(parents=True)
    (output / MAP).write_text("map!")
    if where == "state":
        (output / STATE_FOLDER).symlink_to(elsewhere / STATE_FOLDER)
    elif where == "run":
        (output / STATE_FOLDER).mkdir()
        (output / STATE_FOLDER / plan.run_id).symlink_to(folder)
    else:
        here = finished(output, plan)
        (here / "scores.zarr" / "linked").symlink_to(folder / "scores.zarr")
    if where == "inside":
        assert free(take_stock(output)) == 0
    else:
        with pytest.raises(OutputError, match="holds no run"):
            take_stock(output)
    assert everything(elsewhere) == before


@pytest.mark.parametrize("content", ["nothing", "strange", "state"])
def test_a_folder_that_is_not_ours_is_refused(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if content == "strange":
        (tmp_path / "scores.zarr").mkdir()
        (tmp_path / ".map.0123456789ab.tmp.tif").write_text("x")
        os.utime(tmp_path / ".map.0123456789ab.tmp.tif", (0, 0))
    if content == "state":
        (tmp_path / STATE_FOLDER / "notes").mkdir(parents=True)
        (tmp_path / STATE_FOLDER / "notes" / "result.json").write_text("{}")
    before = everything(tmp_path)
    assert spex("clean", str(tmp_path), "--yes") == 2
    assert "holds no run" in capsys.readouterr().err
    assert everything(tmp_path) == before


def test_old_drafts_go_and_what_looks_alike_stays(plan: MapPlan, tmp_path: Path) -> None:
    folder = finished(tmp_path, plan, missing_blocks=1)
    item = (tmp_path / MAP).parent
    old = [tmp_path / ".catalog.0123456789ab.tmp.json", item / ".landcover.0123456789ab.tmp.tif"]
    stay = [
        item / ".landcover.0123456789ab.tmp.tif.mine.txt",
        item / "landcover.0123456789ab.tmp.tif",
        item / ".landcover.0123456789AB.tmp.tif",
        folder / ".plan.0123456789ab.tmp.json",
    ]
    for path in (*old, *stay):
        path.write_text("draft")
        os.utime(path, (0, 0))
    young = item / ".confidence.0123456789ab.tmp.tif"
    young.write_text("draft")
    linked = item / ".linked.0123456789ab.tmp.tif"
    linked.symlink_to(stay[0])
    stock = take_stock(tmp_path)
    assert sorted(removal.path for removal in stock.removals) == sorted(old)
    free(stock)
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in (*stay, young, linked, tmp_path / MAP))
    assert time.time() - young.stat().st_mtime < 3600


def test_monthly_maps_are_cleaned_and_told_by_region_and_period(
    plan: MapPlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / MONTHLY_FOLDER).mkdir()
    for period in ("2026-06", "2026-07"):
        finished(tmp_path / "tiny" / period, plan)
    finished(tmp_path / "archive" / "not-linked", plan)
    (tmp_path / "linked").symlink_to(tmp_path / "tiny")
    assert spex("status", str(tmp_path)) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in told] == ["archive not-linked", "tiny 2026-06", "tiny 2026-07"]
    assert spex("clean", str(tmp_path), "--yes", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["items"]) == 3
    assert spex("status", str(tmp_path), "--json") == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [(run["monthly"], run["cleaned"], run["period"]) for run in runs] == [
        (label, True, "2026-06-01..2026-07-31") for label in ("archive not-linked", "tiny 2026-06", "tiny 2026-07")
    ]
