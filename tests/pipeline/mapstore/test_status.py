"""What ``spex status`` makes of a folder: who is at work, who has gone, and what only looks finished."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.mapstore.journal import RunEnded, RunStarted
from pipeline.mapstore.output_folders import run_lock
from pipeline.mapstore.status import RunState, run_states
from pipeline.mapstore.store import RESULT_FILE, RunStore, run_folder
from pipeline.settings.run_file import TilingConfig
from spex_core.legend import Legend
from tests.pipeline.small_plans import plan_of, zone_of

NOW = "2026-01-01T00:00:00+00:00"


def store_in(output: Path) -> RunStore:
    tiling = TilingConfig(tile_px=64, overlap_px=16, block_px=128)
    plan = plan_of(zone_of(128, 256, tiling), tiling=tiling)
    return RunStore.create(run_folder(output, plan.run_id), plan, Legend.from_yaml())


def state_of(output: Path) -> RunState:
    (state,) = run_states(output)
    return state


def test_a_run_at_work_is_told_with_its_driver_and_a_dead_one_is_not(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    with run_lock(tmp_path, store.plan.run_id), store.journal_writer() as journal:
        journal.append(RunStarted(NOW, store.plan.run_id))
        state = state_of(tmp_path)
        assert (state.stage, state.driver_gone) == ("running", False)
        assert state.driver is not None
        assert state.driver.startswith("process ")
    state = state_of(tmp_path)
    assert (state.stage, state.driver_gone, state.driver) == ("interrupted", True, None)


@pytest.mark.parametrize("status", ["complete", "partial"])
def test_computed_is_not_published(status: str, tmp_path: Path) -> None:
    store = store_in(tmp_path)
    with store.journal_writer() as journal:
        journal.append(RunStarted(NOW, store.plan.run_id))
        journal.append(RunEnded(NOW, status, 1.0))
    with run_lock(tmp_path, store.plan.run_id):
        assert (state_of(tmp_path).stage, state_of(tmp_path).driver_gone) == ("publishing", False)
    assert (state_of(tmp_path).stage, state_of(tmp_path).driver_gone) == ("interrupted", True)
    (store.folder / RESULT_FILE).write_text("{}")
    assert (state_of(tmp_path).stage, state_of(tmp_path).driver_gone) == (status, False)


@pytest.mark.parametrize("status", ["failed", "empty", "interrupted"])
def test_what_ended_otherwise_has_no_map_to_wait_for(status: str, tmp_path: Path) -> None:
    store = store_in(tmp_path)
    with store.journal_writer() as journal:
        journal.append(RunStarted(NOW, store.plan.run_id))
        journal.append(RunEnded(NOW, status, 1.0))
    assert (state_of(tmp_path).stage, state_of(tmp_path).driver_gone) == (status, False)
