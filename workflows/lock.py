"""A lock between processes of one machine, held by the kernel: it cannot outlive the process that holds it."""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from spex_core.errors import SpexError


class AlreadyRunningError(SpexError):
    """Another process holds the lock."""


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Holds an exclusive ``flock`` on a file for the length of a ``with`` block; never waits.

    The file stays when the lock is released: removing it would let two processes lock two files of one name.

    Raises:
        AlreadyRunningError: Held by another process; the message says by which and since when.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "unknown process"
            raise AlreadyRunningError(f"already running ({holder}; lock {path}): nothing was started") from None
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} since {now}\n".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
