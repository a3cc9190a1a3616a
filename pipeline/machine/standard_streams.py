"""Standard output and error as a command finds them: closed, gone with their reader, full, or unable to write a letter.

A scheduler may start a command without them, a pager may end before it has read all, a disk that takes a log may be
full. None of this is a reason to lose a map: what cannot be told is not told, and the command goes on.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import Any, TextIO

_GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ECONNRESET, errno.ENXIO)
"""Nobody reads any more: no failure. Anything else (a full disk) is one, because somebody wanted to."""


class _Lenient(io.TextIOBase):
    """A text stream whose first failed write is remembered, and all later ones are dropped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        if self.failure is None:
            try:
                return self._stream.write(text)
            except OSError as error:
                self._fail(error)
            except ValueError as error:  # closed in this process
                self._fail(OSError(errno.EBADF, str(error)))
        return len(text)

    def flush(self) -> None:
        if self.failure is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._fail(error)
            except ValueError as error:
                self._fail(OSError(errno.EBADF, str(error)))

    def _fail(self, error: OSError) -> None:
        self.failure = error
        # What is still in the buffer must not be tried again when the interpreter ends: it would speak of it then.
        with contextlib.suppress(OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._stream.fileno())
            os.close(nothing)

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a plain attribute in typeshed
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._stream.errors

    def __getattr__(self, name: str) -> Any:  # encoding, buffer, ...
        return getattr(self._stream, name)

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return not self.closed and self._stream.isatty()

    def writable(self) -> bool:
        return True


def secure() -> None:
    """Gives this process streams that never raise; once, at the start of a command, before it opens any file."""
    _fill_descriptors()
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if isinstance(stream, _Lenient):
            continue
        if stream is None:
            stream = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # a name in letters that the terminal does not know is written with escapes
            reconfigure(errors="backslashreplace")
        setattr(sys, name, _Lenient(stream))


def output_failure() -> OSError | None:
    """Why standard output could not be written although somebody wanted it (a full disk), if so."""
    failure = sys.stdout.failure if isinstance(sys.stdout, _Lenient) else None
    return failure if failure is not None and failure.errno not in _GONE else None


def _fill_descriptors() -> None:
    """Nothing that is opened later may take the place of standard input, output or error."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest that is free
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
