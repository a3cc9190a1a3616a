"""What of an output folder can go, and its removal: stores of finished runs and forgotten drafts, never a map.

A finished run's store (scores, indices, journal) only serves to publish its map again without computing it. What is
removed is looked for anew under the lock of its run; links are never followed, and nothing else below the folder is
touched. See docs/decisions/0040.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import OutputError
from pipeline.machine.lock import holder_of
from pipeline.machine.own_files import refuse_links, refuse_strangers
from pipeline.mapstore.output_folders import output_folders, run_lock, run_lock_file, state_folders
from pipeline.mapstore.store import CLEANED_PLAN_FILE, PLAN_FILE, RESULT_FILE, STATE_FOLDER
from spex_core.durable_files import DRAFT_MARK, put_in_place, remove

DRAFT_AGE_S = 3600.0
"""A draft that is younger may be somebody's who is writing it."""
_DRAFT = re.compile(rf"\..+\.[0-9a-f]{{12}}{re.escape(DRAFT_MARK)}(\.[^.]+)?")
_DRAFT_DEPTH = 2
"""Drafts lie beside what they become: in the output folder, a collection, an item."""
_STORE = ("journal.jsonl", "scores.zarr")


@dataclass(frozen=True)
class Removal:
    """Something that can go."""

    kind: str
    """``store`` of a finished run, or ``draft`` of a writer that was killed."""
    path: Path
    """The run's folder, of which the plan and the result stay; or the draft."""
    size: int
    """On disk, bytes."""
    what: str
    """For people."""


@dataclass(frozen=True)
class Stock:
    """What was found below a folder."""

    outputs: tuple[Path, ...]
    removals: tuple[Removal, ...]
    kept: tuple[tuple[Path, str], ...]
    """Runs that stay, each with the reason."""

    @property
    def size(self) -> int:
        """What can be freed, bytes."""
        return sum(removal.size for removal in self.removals)


def take_stock(folder: Path) -> Stock:
    """Looks, and changes nothing.

    Args:
        folder: An output folder, or that of monthly maps.

    Raises:
        OutputError: It is none of ours, or a folder of ours in it is a link or cannot be listed.
    """
    outputs = tuple(output for _, output in output_folders(folder))
    removals: list[Removal] = []
    kept: list[tuple[Path, str]] = []
    for output in outputs:
        found, stay = _stock_of(output)
        removals += found
        kept += stay
    return Stock(outputs, tuple(removals), tuple(kept))


def free(stock: Stock) -> int:
    """Removes what was found, as far as it can still go.

    Returns:
        Bytes freed.

    Raises:
        OutputError: A folder is being written by a run, or something cannot be removed; what went before is gone.
    """
    freed = 0
    for output in stock.outputs:
        wanted = {removal.path for removal in stock.removals if removal.path.is_relative_to(output)}
        if not wanted:
            continue
        with contextlib.ExitStack() as held:
            for path in sorted(wanted):
                if path.parent == output / STATE_FOLDER:
                    held.enter_context(run_lock(output, path.name))
            for removal in _stock_of(output, held_here=True)[0]:
                if removal.path in wanted:
                    _remove(removal)
                    freed += removal.size
    return freed


def _stock_of(output: Path, held_here: bool = False) -> tuple[list[Removal], list[tuple[Path, str]]]:
    """What can go and what stays; with ``held_here`` the locks of what is to go are this process's own."""
    refuse_links(output, STATE_FOLDER)
    removals, kept = [], []
    folders = state_folders(output)
    holders = {folder: holder_of(run_lock_file(folder)) for folder in folders}
    at_work = any(holders.values())
    for folder in folders:
        holder = None if held_here else holders[folder]
        reason = _reason_to_keep(folder, output) if holder is None else f"is being written by {holder}"
        if reason is not None:
            kept.append((folder, reason))
        elif size := sum(_size(folder / name) for name in _STORE):
            removals.append(Removal("store", folder, size, "scores of a finished run; its map stays"))
    if at_work and not held_here:
        return removals, kept  # a draft may be theirs
    removals += [
        Removal("draft", path, _size(path), "a draft that nobody finished")
        for path in _drafts(output, _DRAFT_DEPTH, time.time() - DRAFT_AGE_S)
    ]
    return removals, kept


def _reason_to_keep(folder: Path, output: Path) -> str | None:
    """Why the store of a run stays; None if it is of no use any more."""
    try:
        refuse_strangers(folder)
        record = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
        if record["run_id"] != folder.name or record["missing_blocks"] or record["incomplete_blocks"]:
            return "something is missing in its map: the same run tries it again"
        names = [str(name) for name in record["sizes"]]
    except OutputError as error:
        return str(error)
    except FileNotFoundError:
        return "not finished: the same run goes on from here"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its {RESULT_FILE} cannot be read ({type(error).__name__})"
    if not names or not all(_is_published(output, name) for name in names):
        return "its map is not there any more: the same run publishes it again from here"
    return None


def _is_published(output: Path, name: str) -> bool:
    parts = PurePosixPath(name).parts
    return ".." not in parts and not name.startswith("/") and (output / name).is_file()


def _drafts(folder: Path, depth: int, before: float) -> Iterator[Path]:
    """Regular files of this user with a draft's name, last written before a time; links are not followed."""
    for entry in _entries(folder):
        found = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            if depth and entry.name != STATE_FOLDER:
                yield from _drafts(Path(entry.path), depth - 1, before)
            continue
        forgotten = found.st_uid == os.getuid() and found.st_mtime < before
        if forgotten and stat.S_ISREG(found.st_mode) and _DRAFT.fullmatch(entry.name):
            yield Path(entry.path)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OutputError(f"{folder} cannot be listed: {error.strerror or error}") from error


def _size(path: Path) -> int:
    """On disk, bytes, with all that a folder holds."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return 0
    own = found.st_blocks * 512
    if not stat.S_ISDIR(found.st_mode):
        return own
    return own + sum(_size(Path(entry.path)) for entry in _entries(path))


def _remove(removal: Removal) -> None:
    try:
        if removal.kind == "draft":
            remove(removal.path)
            return
        # First, and at once: without its plan the rest is no store any more, and a clean that is cut short is resumed.
        if (removal.path / PLAN_FILE).exists():
            put_in_place(removal.path / PLAN_FILE, removal.path / CLEANED_PLAN_FILE)
        for name in _STORE:
            remove(removal.path / name)
    except OSError as error:
        raise OutputError(f"{removal.path} cannot be removed: {error.strerror or error}") from error


def document(stock: Stock, freed: int | None) -> dict[str, Any]:
    """What ``spex clean --json`` prints; ``freed`` is None where nothing was removed."""
    return {
        "freed": freed is not None,
        "bytes": stock.size if freed is None else freed,
        "items": [{"kind": r.kind, "path": str(r.path), "bytes": r.size} for r in stock.removals],
        "kept": [{"path": str(path), "reason": reason} for path, reason in stock.kept],
    }
