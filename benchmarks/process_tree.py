"""What a command costs: wall time, CPU time and peak memory of its whole process tree, watched from outside."""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

from pipeline.machine.memory import family

INTERVAL_S = 0.25
_ProcessId = tuple[int, float]
"""Process id and time of its start."""


@dataclass(frozen=True)
class Cost:
    """Of one command with all its descendants."""

    wall_s: float
    cpu_s: float
    """User and system time. A process that ends between two looks is counted up to the last look at least."""
    peak_mb: float
    """Highest sum of proportional set sizes (shared pages count once), MiB."""
    processes: int
    """Processes seen."""
    output: str
    """Standard output and error."""
    cpu_s_by_kind: Mapping[str, float]
    """CPU time of the kinds of processes, by :func:`kind_of`."""


def cost_of(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Cost:
    """Runs a command to its end.

    Raises:
        RuntimeError: It failed; the message holds the end of what it said.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.monotonic()
    seconds: dict[_ProcessId, float] = {}
    kinds: dict[_ProcessId, str] = {}
    peak_mb = 0.0
    with tempfile.TemporaryFile("w+") as said:  # not a pipe: nobody reads while the command runs
        process = subprocess.Popen(
            command, env={**os.environ, **(environment or {})}, stdout=said, stderr=subprocess.STDOUT
        )
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            peak_mb = max(peak_mb, _look(watched, seconds, kinds))
            time.sleep(INTERVAL_S)
        wall_s = time.monotonic() - begun
        said.seek(0)
        output = said.read()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {output[-2000:]}")
    reaped = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    by_kind: dict[str, float] = {}
    for process_id, used in seconds.items():
        by_kind[kinds[process_id]] = by_kind.get(kinds[process_id], 0.0) + used
    return Cost(wall_s, max(sum(seconds.values()), reaped), peak_mb, len(seconds), output, by_kind)


def kind_of(command: Sequence[str]) -> str:
    """What a process is to a reader of a table: Ray names its workers after the class or function that they run."""
    first = command[0]
    if first.startswith("ray::"):
        return first.removeprefix("ray::").split(".")[0].split(" ")[0]
    if any("/ray/" in part for part in command[:3]):
        return "Ray's own"
    return "the command itself"


def _look(watched: psutil.Process, seconds: dict[_ProcessId, float], kinds: dict[_ProcessId, str]) -> float:
    total = 0.0
    for member in family(watched):
        try:
            times = member.cpu_times()
            process_id = (member.pid, member.create_time())
            seconds[process_id] = times.user + times.system
            kinds.setdefault(process_id, "the command itself")  # one that has just ended has no command, or an error
            if command := member.cmdline():
                kinds[process_id] = kind_of(command)
            total += member.memory_full_info().pss / 2**20
        except psutil.Error:
            continue
    return total
