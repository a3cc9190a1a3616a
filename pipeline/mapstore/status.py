"""How far the runs of an output folder are, read from their journals while they run or afterwards."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import OutputError
from pipeline.machine.lock import holder_of, is_held
from pipeline.mapstore.output_folders import run_lock_file, state_folders
from pipeline.mapstore.store import CLEANED_PLAN_FILE, PLAN_FILE, RESULT_FILE, STATE_FOLDER, RunStore
from pipeline.planning.plan_file import read_plan
from pipeline.records.plan import MapPlan
from spex_core.errors import SpexError

Stage = Literal[
    "planned", "running", "publishing", "complete", "partial", "empty", "failed", "interrupted", "unreadable"
]


@dataclass(frozen=True)
class RunState:
    """One run of an output folder."""

    run_id: str
    name: str
    stage: Stage
    """``interrupted`` also where a driver was killed: its journal has no end, and nobody writes it any more."""
    blocks: int
    finished: int
    incomplete: int
    """Finished blocks with something missing."""
    failures: tuple[str, ...]
    """One line per block that was given up."""
    started: str | None
    """UTC, ISO 8601."""
    seconds_left: float | None
    """Estimate while running, from the rate since the latest start."""
    driver_gone: bool = False
    """The latest driver left without a word (SIGKILL, a lost machine); its run goes on where it is started again."""
    driver: str | None = None
    """Who is at work on it: ``process 123 on host since ...``."""
    cleaned: bool = False
    """Its map is published and its store was cleaned away."""
    period: str | None = None
    """First and last day of the map, ``2026-06-01..2026-06-30``."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {**self.__dict__, "failures": list(self.failures)}


def run_states(output: Path, now: dt.datetime | None = None) -> tuple[RunState, ...]:
    """States of all runs below an output folder, sorted by id.

    Args:
        output: Folder of one or more runs.
        now: Time to estimate from; default: now.

    Raises:
        OutputError: No run was ever started there.
    """
    folders = state_folders(output)
    if not folders:
        raise OutputError(f"{output} holds no run (no {STATE_FOLDER}/*/{PLAN_FILE}); give the output folder of one")
    return tuple(_state(folder, now or dt.datetime.now(dt.UTC)) for folder in folders)


def _state(folder: Path, now: dt.datetime) -> RunState:
    if not (folder / PLAN_FILE).is_file():
        return _cleaned(folder)
    try:
        store = RunStore.open(folder)
        state = store.state()
    except SpexError as error:
        return RunState(folder.name, "?", "unreadable", 0, 0, 0, (str(error),), None, None)
    blocks = sum(len(zone.blocks) for zone in store.plan.zones)
    stage: Stage = "planned"
    left: float | None = None
    gone = False
    driver = holder_of(run_lock_file(folder))
    if state.ended is not None:
        known: dict[str, Stage] = {s: s for s in ("complete", "partial", "empty", "failed", "interrupted")}
        stage = known.get(state.ended.status, "failed")
        if stage in ("complete", "partial") and not (folder / RESULT_FILE).is_file():
            # Computed, and not published: by whoever is at work here, or by nobody any more.
            stage, gone = ("publishing", False) if driver is not None else ("interrupted", True)
    elif state.started is not None and not is_held(store.journal_path):
        stage, gone = "interrupted", True
    elif state.started is not None:
        stage = "running"
        done = len(state.finished) - state.started.resumed_blocks
        elapsed = (now - dt.datetime.fromisoformat(state.started.time)).total_seconds()
        if done > 0 and elapsed > 0:
            left = max(0.0, (blocks - len(state.finished) - len(state.failed)) * elapsed / done)
    return RunState(
        run_id=store.plan.run_id,
        name=str(store.plan.config.get("name", "?")),
        stage=stage,
        blocks=blocks,
        finished=len(state.finished),
        incomplete=sum(record.incomplete for record in state.finished.values()),
        failures=tuple(
            f"EPSG:{epsg} block {index}: {failure.error}" for (epsg, index), failure in sorted(state.failed.items())
        ),
        started=state.started.time if state.started else None,
        seconds_left=None if left is None else round(left, 1),
        driver_gone=gone,
        driver=driver if stage in ("running", "publishing") else None,
        period=_period(store.plan),
    )


def _cleaned(folder: Path) -> RunState:
    """Of a run whose store was cleaned away: what its plan and its result say."""
    try:
        plan = read_plan(folder / CLEANED_PLAN_FILE)
        record = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
        blocks = int(record["blocks"])
    except (SpexError, OSError, ValueError, KeyError, TypeError) as error:
        return RunState(folder.name, "?", "unreadable", 0, 0, 0, (f"{type(error).__name__}: {error}",), None, None)
    name = str(plan.config.get("name", "?"))
    return RunState(
        plan.run_id, name, "complete", blocks, blocks, 0, (), None, None, cleaned=True, period=_period(plan)
    )


def _period(plan: MapPlan) -> str | None:
    start, end = plan.config.get("start"), plan.config.get("end")
    return None if start is None or end is None else f"{start}..{end}"
