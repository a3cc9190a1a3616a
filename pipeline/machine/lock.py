"""The one lock between processes of a machine: held by the kernel, so that it cannot outlive the process that holds it.

A lock file says who holds it. It stays when the lock is released: removing it would let two processes lock two files
of one name.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import fcntl
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from spex_core.durable_files import make_folder, open_own

UNKNOWN_HOLDER = "another process"
_POLL_S = 0.05
_NO_LOCKS = frozenset((errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS))
"""What ``flock`` answers where the file system cannot lock."""
_HOLDER_BYTES = 200


class LockedError(BlockingIOError):
    """Another process holds the lock."""

    @property
    def holder(self) -> str:
        """Who: ``process 123 on host since 2026-06-01T08:00:00+00:00``, or ``another process``."""
        return str(self.strerror)


class NoLocksError(OSError):
    """The file system has no locks: two processes could not be kept apart."""


class Lock:
    """A lock that is held; released by :meth:`release`, the end of a ``with`` block, or the end of the process."""

    def __init__(self, file: BinaryIO) -> None:
        """Use :func:`take`."""
        self._file = file

    def release(self) -> None:
        """Gives the lock back; harmless when repeated."""
        if not self._file.closed:
            # The next one to ask must not be told of a holder that is gone. A full disk does not keep a lock.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), 0)
            # A child that is being started holds a copy of the file for a moment: closing alone would not do.
            fcntl.flock(self._file.fileno(), fcntl.LOCK_UN)
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def take(path: Path, *, wait_s: float = 0.0, create: bool = True, who: str | None = None) -> Lock:
    """Locks a file of its own for one process.

    Args:
        path: The lock file, which holds nothing else.
        wait_s: How long another holder is waited for, seconds.
        create: Whether a missing file (and folder) is made.
        who: What this process is called in the file; default: its number and host.

    Raises:
        LockedError: Held by another process.
        ForeignFileError: What lies there is a link or no regular file of ours; it is left as it is.
        OSError: It cannot be made or locked (:class:`NoLocksError`: nothing can be locked there).
    """
    deadline = time.monotonic() + wait_s
    while True:
        if create:
            make_folder(path.parent)
        file = open_own(path, "r+b", create=create, buffering=0)
        try:
            hold(file, path)
            if _is_still(file, path):
                _sign(file, who or f"process {os.getpid()} on {socket.gethostname()}")
                return Lock(file)
            file.close()  # somebody removed the file before it was locked: the lock of its name is another
        except LockedError:
            holder = os.pread(file.fileno(), _HOLDER_BYTES, 0).decode("utf-8", "replace").strip()
            file.close()
            if time.monotonic() >= deadline:
                raise LockedError(errno.EWOULDBLOCK, _printable(holder) or UNKNOWN_HOLDER, str(path)) from None
            time.sleep(_POLL_S)
        except BaseException:
            file.close()
            raise


def hold(file: BinaryIO, path: Path) -> None:
    """Locks a file that is open for writing, until it is closed; waits no longer than a question takes.

    For files that hold something else than a lock (a journal): they cannot say who holds them.

    Args:
        file: From :func:`spex_core.durable_files.open_own`.
        path: Its name, for messages.

    Raises:
        LockedError: Held by another process.
        NoLocksError: The file system has none.
        OSError: It cannot be locked for another reason.
    """
    for last in (False, False, True):
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if last:
                raise LockedError(errno.EWOULDBLOCK, UNKNOWN_HOLDER, str(path)) from error
            time.sleep(_POLL_S)  # it may only be asked after, see is_held
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            raise NoLocksError(
                error.errno, f"this file system has no file locks ({error.strerror})", str(path)
            ) from error


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file; True also where that cannot be told."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def holder_of(path: Path) -> str | None:
    """Who holds a lock file, ``process 123 on host since ...``; None if nobody does, or it is no file."""
    if not path.is_file() or not is_held(path):
        return None
    with contextlib.suppress(OSError), path.open("rb") as file:
        return _printable(file.read(_HOLDER_BYTES).decode("utf-8", "replace").strip()) or UNKNOWN_HOLDER
    return UNKNOWN_HOLDER


def _is_still(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.lstat(path))
    except FileNotFoundError:
        return False


def _sign(file: BinaryIO, who: str) -> None:
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    os.ftruncate(file.fileno(), 0)
    os.pwrite(file.fileno(), f"{who} since {now}".encode(), 0)


def _printable(text: str) -> str:
    """The file is ours, but what is in it reaches a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
