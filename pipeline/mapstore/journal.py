"""What happened in a run: one JSON object per line, appended and flushed to disk by the driver alone.

A line counts once it ends in a newline: a crash in the middle of writing leaves a torn last line, which is ignored and
cut off by the next writer. Repeated records are harmless: the last word on a block is what counts.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from pipeline.errors import StoreError
from pipeline.machine import lock
from pipeline.machine.addresses import public_document
from pipeline.machine.collection import collection_paused
from pipeline.mapstore.refusal import write_error
from spex_core.durable_files import flush_folder, make_folder, open_own

BlockKey = tuple[int, int]
"""EPSG code of the zone, index of the block in the zone."""


@dataclass(frozen=True)
class RunStarted:
    """A driver began, or resumed."""

    time: str
    """UTC, ISO 8601."""
    run_id: str
    resumed_blocks: int = 0
    """Blocks found finished."""


@dataclass(frozen=True)
class BlockFinished:
    """A block is complete in the store."""

    epsg: int
    index: int
    seconds: float
    """From the start of its reading to the end of its writing."""
    valid_share: float
    """Share of its pixels that carry a class, 0..1."""
    sha256: str
    """Over all its layers, see :meth:`pipeline.mapstore.store.RunStore.write_block`."""
    problems: tuple[str, ...] = ()
    """What is missing or was worked around, one line each."""
    incomplete: bool = False
    """A scene could not be read or a neighbour's tiles are missing: another run of the plan tries again."""


@dataclass(frozen=True)
class BlockFailed:
    """A block was given up."""

    epsg: int
    index: int
    attempts: int
    error: str


@dataclass(frozen=True)
class RunEnded:
    """A driver came to its end."""

    time: str
    status: str
    """``complete``, ``partial``, ``empty`` (no pixel has a class), ``failed`` or ``interrupted``."""
    seconds: float


JournalRecord = RunStarted | BlockFinished | BlockFailed | RunEnded
_EVENTS: dict[str, type[JournalRecord]] = {
    "run-started": RunStarted,
    "block-finished": BlockFinished,
    "block-failed": BlockFailed,
    "run-ended": RunEnded,
}
_NAMES = {kind: name for name, kind in _EVENTS.items()}
_FIELDS = {kind: frozenset(field.name for field in fields(kind)) for kind in _NAMES}
_JSON = json.JSONDecoder()


@dataclass(frozen=True)
class JournalState:
    """Where a run stands: the journal folded into the last word on everything."""

    finished: dict[BlockKey, BlockFinished]
    failed: dict[BlockKey, BlockFailed]
    started: RunStarted | None
    """The latest start."""
    ended: RunEnded | None
    """Its end; ``None`` while it runs or if it was killed."""


def replay(records: Iterable[JournalRecord]) -> JournalState:
    """Folds records, oldest first."""
    finished: dict[BlockKey, BlockFinished] = {}
    failed: dict[BlockKey, BlockFailed] = {}
    started: RunStarted | None = None
    ended: RunEnded | None = None
    for record in records:
        match record:
            case RunStarted():
                started, ended = record, None
            case RunEnded():
                ended = record
            case BlockFinished():
                finished[record.epsg, record.index] = record
                failed.pop((record.epsg, record.index), None)
            case BlockFailed():
                failed[record.epsg, record.index] = record
                finished.pop((record.epsg, record.index), None)
    return JournalState(finished, failed, started, ended)


def read_journal(path: str | Path) -> tuple[JournalRecord, ...]:
    """All complete records, oldest first; none if the file does not exist.

    Raises:
        StoreError: Unreadable, or a complete line is not a record; the message names the line.
    """
    path = Path(path)
    try:
        with path.open("rb") as file, collection_paused():
            return tuple(_records(file, path))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise StoreError(f"journal {path} cannot be read: {error}") from error


def _records(file: BinaryIO, path: Path) -> Iterator[JournalRecord]:
    for number, line in enumerate(file, start=1):  # line by line: a run of 100,000 blocks has 20 MB of them
        if line.endswith(b"\n") and not line.isspace():  # what follows the last newline was torn by a crash
            yield _parse(line, path, number)


def _parse(line: bytes, path: Path, number: int) -> JournalRecord:
    try:
        text = line.decode().strip(" \t\r\n")
        data, end = _JSON.raw_decode(text)  # half the time of json.loads, which guesses the encoding of each line
        if end != len(text):
            raise ValueError(f"{len(text) - end} characters follow it")
        kind = _EVENTS[data.pop("event")]
        if "problems" in data:
            data["problems"] = tuple(map(str, data["problems"]))
        record = _made(kind, data)
        _check_types(record)
        return record
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(
            f"journal {path}, line {number} is not a record of this version ({type(error).__name__}: {error}); "
            "delete the line to have its block computed again"
        ) from error


def _made(kind: type[JournalRecord], values: dict[str, Any]) -> JournalRecord:
    """``kind(**values)``, in half the time where a line has all fields, as the lines of this version do: a frozen
    dataclass sets each by a call of its own, and a run of 100,000 blocks has 700,000.

    Raises:
        TypeError: A field is missing or not known.
    """
    if values.keys() != _FIELDS[kind]:
        return kind(**values)
    record = object.__new__(kind)
    record.__dict__.update(values)
    return record


_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "str": (str,),
    "bool": (bool,),
    "tuple[str, ...]": (tuple,),
}
_TYPES = {kind: tuple((field.name, _KINDS[str(field.type)]) for field in fields(kind)) for kind in _NAMES}


def _check_types(record: JournalRecord) -> None:
    """A line may hold anything: a list in the place of a number would be found out far from here."""
    values = record.__dict__
    for name, kinds in _TYPES[type(record)]:
        if type(values[name]) not in kinds:
            raise TypeError(f"{name} is {values[name]!r:.80}")


class JournalWriter:
    """The one appender of a journal; holds a lock for as long as it is open.

    Raises:
        StoreError: Another process is writing this run, or the file cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        try:
            make_folder(self._path.parent)
            self._file: BinaryIO = open_own(self._path, "a+b", buffering=0)
            flush_folder(self._path.parent)
        except OSError as error:
            raise StoreError(f"journal {path} cannot be opened: {error}") from error
        try:
            lock.hold(self._file, self._path)
            _cut_torn_line(self._file)
        except lock.LockedError as error:
            self._file.close()
            raise StoreError(f"another process is running {self._path.parent}; wait for it or end it") from error
        except OSError as error:
            self._file.close()
            raise StoreError(f"journal {path} cannot be locked: {error}") from error

    def append(self, record: JournalRecord) -> None:
        """Adds one record and returns when it is on disk.

        Raises:
            StoreError: It cannot be written.
        """
        told = public_document(asdict(record))  # messages repeat addresses
        line = json.dumps({"event": _NAMES[type(record)], **told}, allow_nan=False).encode() + b"\n"
        before = os.fstat(self._file.fileno()).st_size
        try:
            while line:  # a disk that is nearly full takes a part; it says why when asked to take the rest
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):  # or the next line would go on where this one broke off
                os.ftruncate(self._file.fileno(), before)
            raise write_error(f"journal {self._path}", error, self._path.parent) from error

    def close(self) -> None:
        """Releases the lock; harmless when repeated."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _cut_torn_line(file: BinaryIO) -> None:
    file.seek(0)
    content = file.read()
    complete = content.rfind(b"\n") + 1
    if complete != len(content):
        file.truncate(complete)
