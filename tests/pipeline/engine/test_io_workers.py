"""The pool of readers and finishers, without a Ray: who takes a call, who is to blame when a process goes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from ray.exceptions import WorkerCrashedError

from pipeline.engine import io_workers
from pipeline.engine.io_workers import LINE, IoKind, IoPool


class Handle(int):
    """A process: its number, on machine "A" if it is odd, "B" if it is even."""

    @property
    def place(self) -> Any:
        return SimpleNamespace(remote=lambda: f"place {'A' if self % 2 else 'B'}")


class Machines:
    """Stands for Ray: counts processes, remembers who was ended, knows which calls have an answer."""

    def __init__(self) -> None:
        self.started = 0
        self.ended: list[int] = []
        self.done: set[Any] = set()
        self.gone: set[str] = set()

    def remote(self, contexts: Any) -> int:
        assert contexts == "contexts"
        self.started += 1
        return Handle(self.started)

    def kill(self, handle: int) -> None:
        self.ended.append(handle)

    def get(self, reference: Any, timeout: float) -> Any:
        if reference.startswith("place"):
            return reference.removeprefix("place ")
        if reference not in self.done:
            raise WorkerCrashedError
        return None

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": name, "Alive": name not in self.gone} for name in "AB"]

    @property
    def alive(self) -> int:
        return self.started - len(self.ended)


@pytest.fixture
def machines() -> Machines:
    return Machines()


def send(pool: IoPool, kind: IoKind, reference: str) -> int:
    handle: int = pool.next(kind)
    pool.sent(kind, reference)
    return handle


def test_readings_get_a_process_each_until_there_are_enough(machines: Machines) -> None:
    pool = IoPool(machines, machines, "contexts", 2)
    assert [send(pool, "read", name) for name in "abcd"] == [1, 2, 1, 2]
    assert machines.started == 2


def test_what_is_to_be_finished_waits_before_a_process_is_started_for_it(machines: Machines) -> None:
    pool = IoPool(machines, machines, "contexts", 2)
    assert send(pool, "read", "a") == 1
    assert [send(pool, "finish", f"f{i}") for i in range(LINE - 1)] == [1] * (LINE - 1)
    assert send(pool, "finish", "g") == 2


def test_a_process_that_dies_is_blamed_on_the_call_it_worked_on(machines: Machines) -> None:
    pool = IoPool(machines, machines, "contexts", 1)
    send(pool, "read", "first")
    send(pool, "finish", "second")
    send(pool, "finish", "third")
    assert not pool.died("second")
    assert pool.died("first")
    assert not pool.died("third")
    assert send(pool, "read", "again") == 2, "another process takes its place"


def test_with_a_machine_go_all_its_processes_and_no_call_is_to_blame(machines: Machines) -> None:
    pool = IoPool(machines, machines, "contexts", 4)
    for name in "abcd":
        send(pool, "read", name)
    for name in "bcd":
        pool.answered(name)
    machines.gone.add("A")  # processes 1 and 3; 3 has nothing to do
    assert not pool.died("a")
    assert machines.ended == [3, 1]
    assert send(pool, "read", "a") in (2, 4), "not to another one that is gone"


def test_calls_that_were_answered_before_it_died_are_not_to_blame(machines: Machines) -> None:
    pool = IoPool(machines, machines, "contexts", 1)
    send(pool, "read", "first")
    send(pool, "finish", "second")
    machines.done.add("first")  # answered, and not asked for yet
    assert pool.died("second")


def test_a_process_that_has_done_enough_goes_when_its_line_is_empty(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io_workers, "CALLS_PER_WORKER", 2)
    pool = IoPool(machines, machines, "contexts", 1)
    send(pool, "read", "a")
    send(pool, "finish", "b")
    assert send(pool, "read", "c") == 2
    pool.answered("a")
    assert machines.ended == []
    pool.answered("b")
    assert machines.ended == [1]


@settings(max_examples=200, deadline=None)
@given(data=st.data(), size=st.integers(1, 4))
def test_whatever_happens_every_call_has_a_process_and_no_more_live_than_asked_for(data: Any, size: int) -> None:
    machines = Machines()
    pool = IoPool(machines, machines, "contexts", size)
    open_calls: list[str] = []
    for number in range(data.draw(st.integers(1, 40))):
        act = data.draw(st.sampled_from(["read", "finish", "answered", "died", "end"]))
        if act in ("read", "finish"):
            handle = send(pool, act, f"call{number}")
            assert handle not in machines.ended
            open_calls.append(f"call{number}")
        elif open_calls:
            call = open_calls.pop(data.draw(st.integers(0, len(open_calls) - 1)))
            getattr(pool, act)(call)
            getattr(pool, act)(call)  # told twice
        assert machines.alive <= size


HEAVY = ("torch", "transformers", "stackstac", "xarray", "dask", "odc")


def test_a_reader_starts_without_what_it_does_not_use() -> None:
    """Each costs every process of a run a fifth of a second or more."""
    code = f"import sys, pipeline.engine.io_workers\nprint(sorted(set({HEAVY!r}) & sys.modules.keys()))"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["[]"], done.stderr
