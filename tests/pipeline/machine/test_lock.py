"""One process at a time, a dead one holds nothing, and taking a lock harms no file."""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.machine import lock
from pipeline.machine.own_files import folder_lock
from pipeline.mapstore.journal import JournalWriter
from pipeline.mapstore.output_folders import map_lock, map_lock_file, run_lock, run_lock_file
from pipeline.outputs import stac_catalog
from pipeline.spie.state import RecordLog
from spex_core.durable_files import ForeignFileError
from spex_core.errors import SpexError
from tests.strangers import STRANGERS, untouched
from workflows.lock import exclusive

ROOT = Path(__file__).resolve().parents[3]

HOLD = """
import pathlib, sys
from pipeline.machine import lock
with lock.take(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
COUNT = """
import pathlib, sys
from pipeline.machine import lock
path, counter = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
for _ in range(40):
    with lock.take(path, wait_s=60):
        counter.write_text(str(int(counter.read_text()) + 1))
"""


def start(script: str, *arguments: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_the_holder_is_named_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state" / "lock"
    with start(HOLD, path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(lock.LockedError) as caught:
            lock.take(path)
        assert caught.value.holder.startswith(f"process {holder.pid} on {socket.gethostname()} since 2")
        begun = time.monotonic()
        with pytest.raises(lock.LockedError):
            lock.take(path, wait_s=0.3)
        assert time.monotonic() - begun >= 0.3
        threading.Timer(0.2, holder.kill).start()
        with lock.take(path, wait_s=30):
            assert holder.wait() < 0


def test_processes_that_wait_for_each_other_lose_nothing(tmp_path: Path) -> None:
    (tmp_path / "counter").write_text("0")
    workers = [start(COUNT, tmp_path / "lock", tmp_path / "counter") for _ in range(3)]
    assert [worker.communicate(timeout=120) and worker.returncode for worker in workers] == [0, 0, 0]
    assert (tmp_path / "counter").read_text() == "120"


def test_a_released_lock_names_nobody_and_what_it_says_is_safe_to_print(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = lock.take(path)
    held.release()
    held.release()
    assert path.read_bytes() == b""
    with lock.take(path, who="\x1b[31mred"), pytest.raises(lock.LockedError) as caught:
        lock.take(path)
    assert "\x1b" not in caught.value.holder


def test_a_lock_whose_file_is_removed_is_taken_by_its_name(tmp_path: Path) -> None:
    """Two processes must never lock two files of one name."""
    path = tmp_path / "lock"
    held = lock.take(path)
    path.unlink()
    with lock.take(path), pytest.raises(lock.LockedError):
        lock.take(path)
    held.release()


def test_a_lock_that_must_be_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        lock.take(tmp_path / "nowhere" / "lock", create=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", STRANGERS)
def test_taking_a_lock_changes_nothing_that_is_not_ours(kind: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for folder in (".spex", ".spie"):
        (output / folder).mkdir(parents=True)
    with untouched(tmp_path / "theirs") as victim:
        taken = (map_lock_file(output, "map"), run_lock_file(output / ".spex" / "run"))
        for path in taken:
            path.parent.mkdir(parents=True)
        inside = [path.relative_to(output).as_posix() for path in taken]
        for name in (*inside, ".spex/catalog.lock", ".spie/lock", "journal.jsonl", "chips.jsonl", "lock"):
            STRANGERS[kind](output / name, victim)
        with pytest.raises(ForeignFileError):
            lock.take(output / "lock")
        with pytest.raises(ForeignFileError), exclusive(output / "lock"):
            pass
        for take in (
            lambda: map_lock(output, "map").__enter__(),
            lambda: run_lock(output, "run").__enter__(),
            lambda: folder_lock(output, ".spie").__enter__(),
            lambda: stac_catalog.catalog_lock(output).__enter__(),
            lambda: JournalWriter(output / "journal.jsonl"),
            lambda: RecordLog(output / "chips.jsonl"),
        ):
            with pytest.raises(SpexError, match=r"remove it"):
                take()


def test_there_is_one_lock_and_one_rename() -> None:
    """Who locks, flushes or renames by hand does it worse: without the folder's flush, or through a link."""
    homes = {
        "flock": {"pipeline/machine/lock.py"},
        "lockf": set(),
        "fsync": {
            "spex_core/durable_files.py",
            "pipeline/mapstore/journal.py",
            "pipeline/spie/state.py",
            "pipeline/runs/region_texts.py",
        },
        "mkstemp": set(),
        "NamedTemporaryFile": set(),
    }
    found: dict[str, set[str]] = {name: set() for name in homes}
    renames = set()
    for package in ("spex_core", "pipeline", "workflows"):
        for path in sorted((ROOT / package).rglob("*.py")):
            here = path.relative_to(ROOT).as_posix()
            if here.startswith("pipeline/simulation/"):  # its text names the caches of chips, so it stays
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and node.attr in found:
                    found[node.attr].add(here)
                if isinstance(node, ast.Attribute) and node.attr == "replace" and ast.unparse(node.value) == "os":
                    renames.add(here)
    assert found == homes
    assert renames == {"spex_core/durable_files.py"}


def test_no_lock_is_inherited_by_a_child(tmp_path: Path) -> None:
    held = lock.take(tmp_path / "lock")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False) as child:
        held.release()
        lock.take(tmp_path / "lock").release()
        assert os.listdir(f"/proc/{child.pid}/fd")
        child.communicate(b"\n")
