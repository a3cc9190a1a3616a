"""A file under its final name is complete (architecture, rule 4): written beside it first, flushed, then renamed.

The rename and its flushing are those of :mod:`spex_core.durable_files`; here errors become the engine's.
"""

from __future__ import annotations

import json
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


def write_json(path: Path, data: Any) -> None:
    """Writes strict JSON (no NaN) atomically.

    Raises:
        OutputError: The folder cannot be written.
    """
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
