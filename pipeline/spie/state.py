"""What a data set under construction remembers: lines of JSON that survive a kill, and the frozen search.

Below ``<output>/.spie/<build id>/``: ``sources.json`` (scenes and label files as the search found them),
``survey.jsonl`` (classes of every place), ``chips.jsonl`` (what became of every chip that was tried; finished shards).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import OutputError
from spex_core.durable_files import make_folder, open_own

STATE_FOLDER = ".spie"


class RecordLog:
    """A file of JSON lines that is only ever appended to. A last line cut by a kill is dropped.

    Args:
        path: Made if it is missing.

    Raises:
        OutputError: It cannot be read or mended.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.records: list[dict[str, Any]] = []
        """Of earlier runs."""
        try:
            make_folder(path.parent)
            self._file = open_own(path, "a+b")
            self._file.seek(0)
            content = self._file.read()
            kept = 0
            for line in content.splitlines(keepends=True):
                try:
                    record = json.loads(line) if line.endswith(b"\n") else None
                except (ValueError, RecursionError):
                    record = None
                if not isinstance(record, dict):
                    break
                self.records.append(record)
                kept += len(line)
            if kept < len(content):
                self._file.truncate(kept)
        except OSError as error:
            raise OutputError(f"{path} cannot be used: {error.strerror or error}") from error

    def append(self, record: Mapping[str, Any], *, durable: bool = True) -> None:
        """Writes one line; ``durable`` waits until it is on the disk.

        Raises:
            OutputError: The disk is full.
        """
        try:
            self._file.write(json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            self._file.flush()
            if durable:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(f"{self._path} cannot be written: {error.strerror or error}") from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
