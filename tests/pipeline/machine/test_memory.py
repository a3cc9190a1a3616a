"""The memory of a run is what lives at one time, and what is shared counts once."""

from __future__ import annotations

import mmap
import subprocess
import sys
import time
from multiprocessing import shared_memory

import psutil
import pytest

from pipeline.machine import memory as looked_at
from pipeline.machine.memory import PeakMemory, resident_mb

MB = 2**20
SHARED_MB = 96
CHILD = """
import sys
from multiprocessing import resource_tracker, shared_memory
memory = shared_memory.SharedMemory(sys.argv[1])
resource_tracker.unregister(memory._name, "shared_memory")  # the parent removes it
touched = sum(memory.buf[::4096])
own = bytearray(32 * 2**20)
print("ready", flush=True)
sys.stdin.read()
"""


def test_what_processes_share_counts_once_and_what_is_their_own_each_time() -> None:
    memory = shared_memory.SharedMemory(create=True, size=SHARED_MB * MB)
    children: list[subprocess.Popen[str]] = []
    try:
        memory.buf[:] = bytes(SHARED_MB * MB)
        before = resident_mb(psutil.Process())
        with PeakMemory(interval_s=0.01, search_s=0) as peak:
            for _ in range(3):
                children.append(
                    subprocess.Popen(
                        [sys.executable, "-c", CHILD, memory.name],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        text=True,
                    )
                )
            for child in children:
                assert child.stdout is not None
                assert child.stdout.readline() == "ready\n"
            grown = resident_mb(psutil.Process()) - before
            for child in children:
                child.communicate("")
        # Three interpreters with 32 MB each; counted for each, the shared pages alone would be 288 MB.
        assert 3 * 32 < grown < 3 * 32 + SHARED_MB + 3 * 25
        assert peak.mb >= before + grown - 5
    finally:
        for child in children:
            child.kill()
        memory.close()
        memory.unlink()


def test_descendants_are_looked_for_now_and_then_and_those_known_looked_at_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searches: list[psutil.Process] = []

    def family(process: psutil.Process) -> list[psutil.Process]:
        searches.append(process)
        return [process]

    monkeypatch.setattr(looked_at, "family", family)
    with PeakMemory(interval_s=0.01, search_s=60) as peak:
        before = peak.mb
        # Memory of its own, touched: an allocator that keeps what was freed would give what is there already.
        held = mmap.mmap(-1, 64 * MB)
        held.write(b"1" * (64 * MB))
        deadline = time.monotonic() + 20
        while peak.mb < before + 48 and time.monotonic() < deadline:
            time.sleep(0.01)
        held.close()
    assert peak.mb >= before + 48
    assert len(searches) == 1
