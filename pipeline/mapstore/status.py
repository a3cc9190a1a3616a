"""How far the runs of an output folder are, read from their journals while they run or afterwards."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import OutputError
from pipeline.machine.lock import is_held
from pipeline.mapstore.store import STATE_FOLDER, RunStore
from spex_core.errors import SpexError

Stage = Literal["planned", "running", "complete", "partial", "empty", "failed", "interrupted", "unreadable"]


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
    folders = sorted(path for path in (output / STATE_FOLDER).glob("*") if (path / "plan.json").is_file())
    if not folders:
        raise OutputError(f"{output} holds no run (no {STATE_FOLDER}/*/plan.json); give the output folder of one")
    return tuple(_state(folder, now or dt.datetime.now(dt.UTC)) for folder in folders)


def _state(folder: Path, now: dt.datetime) -> RunState:
    try:
        store = RunStore.open(folder)
        state = store.state()
    except SpexError as error:
        return RunState(folder.name, "?", "unreadable", 0, 0, 0, (str(error),), None, None)
    blocks = sum(len(zone.blocks) for zone in store.plan.zones)
    stage: Stage = "planned"
    left: float | None = None
    gone = False
    if state.ended is not None:
        known: dict[str, Stage] = {s: s for s in ("complete", "partial", "empty", "failed", "interrupted")}
        stage = known.get(state.ended.status, "failed")
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
    )
