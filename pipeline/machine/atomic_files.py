"""A file under its final name is complete (architecture, rule 4): written beside it first, flushed, then renamed.

The rename and its flushing are those of :mod:`spex_core.durable_files`; here errors become the engine's.
"""

from __future__ import annotations

import contextlib
import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import OutputError
from spex_core import durable_files


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; it takes the place of ``path`` if the block ends without an error.

    Raises:
        OutputError: The folder cannot be written.
    """
    try:
        with durable_files.replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}; check the disk and its rights"
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically.

    Raises:
        OutputError: The folder cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically.

    Raises:
        OutputError: The folder cannot be written.
    """
    write_bytes(path, text.encode())


def renew_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically unless it holds just that: what is as it was keeps its time, and is not sent again.

    Raises:
        OutputError: The folder cannot be written.
    """
    with contextlib.suppress(OSError):
        if stat.S_ISREG(path.lstat().st_mode) and path.stat().st_size == len(content) and path.read_bytes() == content:
            return
    write_bytes(path, content)


def renew_json(path: Path, data: Any) -> None:
    """The same for strict JSON (no NaN).

    Raises:
        OutputError: The folder cannot be written.
    """
    renew_bytes(path, _json_text(data).encode())


def write_json(path: Path, data: Any) -> None:
    """Writes strict JSON (no NaN) atomically.

    Raises:
        OutputError: The folder cannot be written.
    """
    write_text(path, _json_text(data))


def _json_text(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def discard(path: Path) -> None:
    """Removes a file of ours that is of no use any more; that it is not there is fine.

    Raises:
        OutputError: It cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be removed: {error.strerror or error}") from error
