"""Memory of a run: the peak resident set of the driver and of every process below it, sampled by a thread."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

import psutil

from pipeline.machine.control_groups import memory_limit

INTERVAL_S = 0.5
SEARCH_S = 4.0
"""How often descendants are looked for: that goes through all processes of the machine, and workers stay."""


@dataclass(frozen=True)
class ProcessMemory:
    """What a worker process says of itself; on a cluster the driver cannot look."""

    host: str
    pid: int
    peak_mb: float
    """Highest resident set so far, MiB."""


def process_memory() -> ProcessMemory:
    """Peak memory of the calling process."""
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return ProcessMemory(socket.gethostname(), os.getpid(), peak_mb)


def shareable_bytes() -> int:
    """Memory that processes of this machine could share now: what is free, of the container and of ``/dev/shm`` too."""
    free: list[int] = [psutil.virtual_memory().available]
    limit = memory_limit()
    if limit is not None:
        free.append(limit.free_bytes)
    with contextlib.suppress(OSError):
        shared = os.statvfs("/dev/shm")
        free.append(shared.f_bavail * shared.f_frsize)
    return min(free)


def family(process: psutil.Process) -> list[psutil.Process]:
    """A process and all its descendants; nobody if it has ended."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def resident_mb(process: psutil.Process) -> float:
    """Resident memory of a process and all its descendants at this moment, MiB.

    Pages that several share (Ray's object store, libraries) count once: as the most that one of them shares. The sum
    of what ``ps`` gives would count them once per process. Where the system does not tell what is shared, it is that.
    """
    return _together_mb(family(process))


def _together_mb(members: Iterable[psutil.Process]) -> float:
    own, shared = 0, 0
    for member in members:
        try:
            found = member.memory_info()
        except psutil.Error:  # it ended between the listing and the question
            continue
        common = min(getattr(found, "shared", 0), found.rss)
        own, shared = own + found.rss - common, max(shared, common)
    return (own + shared) / 2**20


class PeakMemory:
    """Context manager that watches this process and its descendants: ``with PeakMemory() as peak: ...; peak.mb``.

    Args:
        interval_s: How often memory is looked at.
        search_s: How often descendants are looked for; those known are looked at each time.
    """

    def __init__(self, interval_s: float = INTERVAL_S, search_s: float = SEARCH_S) -> None:
        self._interval_s, self._search_s = interval_s, search_s
        self._members: list[psutil.Process] = []
        self._searched = float("-inf")
        self._process = psutil.Process()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="spex-peak-memory", daemon=True)
        self._peak_mb = 0.0

    @property
    def mb(self) -> float:
        """Highest sum seen so far, MiB."""
        return self._peak_mb

    def _sample(self) -> None:
        if time.monotonic() - self._searched >= self._search_s:
            self._members, self._searched = family(self._process), time.monotonic()
        self._peak_mb = max(self._peak_mb, _together_mb(self._members))

    def _watch(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._sample()

    def __enter__(self) -> PeakMemory:
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()
