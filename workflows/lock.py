"""One scheduled job at a time: the lock of :mod:`pipeline.machine.lock`, in the words of a scheduler."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.machine import lock
from spex_core.errors import SpexError


class AlreadyRunningError(SpexError):
    """Another process holds the lock."""


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Holds a lock file for the length of a ``with`` block; never waits.

    Raises:
        AlreadyRunningError: Held by another process; the message says by which and since when.
        OSError: The file cannot be made, or what lies there is none of ours.
    """
    try:
        held = lock.take(path, who=f"process {os.getpid()}")
    except lock.LockedError as error:
        raise AlreadyRunningError(f"already running ({error.holder}; lock {path}): nothing was started") from None
    with held:
        yield
