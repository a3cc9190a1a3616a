"""Signals at every stage of a run: it stops as after Ctrl-C, says so, leaves nothing running, and can be resumed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from pipeline.mapstore.status import run_states
from tests.conftest import TINY_SETTINGS
from tests.pipeline.engine.ray_session import seconds_until_gone

WAIT_S = 180.0


def run_file(folder: Path, archive: Path) -> Path:
    path = folder / "run.yaml"
    settings = {
        **TINY_SETTINGS,
        "tiling": {"tile_px": 64, "overlap_px": 16, "block_px": 64},
        "region": str(archive / "region.geojson"),
        "output": str(folder / "out"),
        "source": {"provider": "earth-search", "url": str(archive / "catalog.json")},
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def _hears_hang_ups() -> None:
    """As a shell starts it, also where the tests themselves were started by ``nohup``."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Run:
    """A ``spex run`` of its own process group, as a scheduler starts it."""

    def __init__(self, folder: Path, file: Path) -> None:
        self.folder = folder
        self.log = folder / "said.log"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipeline", "run", str(file), "--actors", "1"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
                preexec_fn=_hears_hang_ups,
            )

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def journal(self) -> str:
        return "".join(path.read_text() for path in self.folder.glob("out/.spex/*/journal.jsonl"))

    def wait_for(self, moment: Callable[[Run], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not moment(self):
            assert self.process.poll() is None, f"ended before it was signalled: {self.said()[-2000:]}"
            assert time.monotonic() < deadline, f"never came so far: {self.said()[-2000:]}"
            time.sleep(0.01)

    def signal(self, number: signal.Signals, *, group: bool) -> None:
        """Signals the run, as ``kill`` does, or its whole group, as ``timeout`` and schedulers do."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        os.killpg(self.process.pid, number) if group else os.kill(self.process.pid, number)
        begun = time.monotonic()
        code = self.process.wait(60)
        assert code == 130, self.said()[-3000:]
        assert time.monotonic() - begun < 30
        said = self.said()
        assert "goes on from there" in said
        assert not re.search(r"Traceback|\*\*\* SIG|Fatal|core_worker|@ +0x", said), said[-3000:]
        assert seconds_until_gone(children, 10) < 10, "something outlives the run"


def state_of(folder: Path) -> tuple[str, bool]:
    (state,) = run_states(folder / "out")
    return state.stage, state.driver_gone


def searching(run: Run) -> bool:
    return "searching scenes" in run.said()


def starting(run: Run) -> bool:
    return any(child.name() == "gcs_server" for child in psutil.Process(run.process.pid).children())


def mapping(run: Run) -> bool:
    return '"block-finished"' in run.journal()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_search_leaves_no_run_behind(
    number: signal.Signals, tiny_archive: Path, tmp_path: Path
) -> None:
    run = Run(tmp_path, run_file(tmp_path, tiny_archive))
    run.wait_for(searching)
    run.signal(number, group=True)
    assert not run.journal()


@pytest.mark.ray
def test_sigterm_while_ray_starts_ends_what_was_started(tiny_archive: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, run_file(tmp_path, tiny_archive))
    run.wait_for(starting)
    run.signal(signal.SIGTERM, group=False)
    assert state_of(tmp_path) == ("interrupted", False)


@pytest.mark.ray
@pytest.mark.long
def test_sigterm_in_mid_run_and_in_publishing_and_the_same_command_finishes(tiny_archive: Path, tmp_path: Path) -> None:
    file = run_file(tmp_path, tiny_archive)
    first = Run(tmp_path, file)
    first.wait_for(mapping)
    first.signal(signal.SIGTERM, group=True)
    assert state_of(tmp_path) == ("interrupted", False)
    second = Run(tmp_path, file)
    second.wait_for(lambda run: run.journal().count('"run-ended"') == 2)
    second.signal(signal.SIGTERM, group=True)
    assert json.loads(second.journal().splitlines()[-2])["status"] == "complete"
    assert state_of(tmp_path) == ("interrupted", False)
    assert not list(tmp_path.glob("out/*/collection.json")), "it was published before the signal came"
    third = Run(tmp_path, file)
    assert third.process.wait(WAIT_S) == 0, third.said()[-2000:]
    assert "starting Ray" not in third.said()
    assert state_of(tmp_path) == ("complete", False)
    assert list(tmp_path.glob("out/catalog.json"))
