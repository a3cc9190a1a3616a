"""One process at a time, and a dead one holds nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from workflows.lock import AlreadyRunningError, exclusive

HOLD = """
import sys, pathlib
from workflows.lock import exclusive
with exclusive(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def lock_path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "lock"


def test_second_process_is_told_who_holds_the_lock_and_gets_it_afterwards(lock_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(lock_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(AlreadyRunningError, match=rf"process {holder.pid} since .*lock"), exclusive(lock_path):
            pass
        holder.communicate("")
    with exclusive(lock_path):
        pass


def test_killed_holder_leaves_no_lock_behind(lock_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(lock_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.kill()
    with exclusive(lock_path):
        assert lock_path.exists()


def test_failure_inside_releases_the_lock(lock_path: Path) -> None:
    with pytest.raises(RuntimeError), exclusive(lock_path):
        raise RuntimeError
    with exclusive(lock_path):
        pass
