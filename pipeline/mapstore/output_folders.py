"""Output folders below a folder that a user names: the folder itself, or those of every region and period below it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from pipeline.errors import OutputError
from pipeline.machine.own_files import folder_lock
from pipeline.mapstore.store import CLEANED_PLAN_FILE, PLAN_FILE, STATE_FOLDER

MONTHLY_FOLDER = ".monthly"
"""Below the folder of monthly maps: ``<region>/<period>`` beside it are output folders."""


_LOCKS = "locks"
_LOCK_FILE = "lock"


def map_lock(output: Path, map_name: str) -> AbstractContextManager[None]:
    """Keeps two processes from making the same map; others write theirs into the same output folder meanwhile.

    Args:
        output: The output folder.
        map_name: Name and period of the run: what its items' ids begin with.

    Raises:
        OutputError: The folder cannot be written, or another process is making this map.
    """
    return folder_lock(output, STATE_FOLDER, _LOCKS, map_name, what=map_name)


def run_lock(output: Path, run_id: str) -> AbstractContextManager[None]:
    """Keeps two processes out of the state of one run, whatever they call its map.

    Raises:
        OutputError: The folder cannot be written, or another process is at work on this run.
    """
    return folder_lock(output, STATE_FOLDER, run_id, what=f"run {run_id}")


def run_lock_file(run_folder: Path) -> Path:
    """The file of :func:`run_lock`, to ask who holds it."""
    return run_folder / _LOCK_FILE


def map_lock_file(output: Path, map_name: str) -> Path:
    """The file of :func:`map_lock`, to ask who holds it."""
    return output / STATE_FOLDER / _LOCKS / map_name / _LOCK_FILE


def output_folders(folder: Path) -> tuple[tuple[str, Path], ...]:
    """Output folders with runs, each with what to call it: nothing for the folder itself, else ``region period``.

    Links below the folder are not followed.

    Raises:
        OutputError: No run was ever started there.
    """
    found = [("", folder)] if state_folders(folder) else []
    if (folder / MONTHLY_FOLDER).is_dir():
        for region in _folders(folder):
            periods = [period for period in _folders(region) if state_folders(period)]
            found += [(f"{region.name} {period.name}", period) for period in periods]
    if not found:
        raise OutputError(
            f"{folder} holds no run (no {STATE_FOLDER}/*/{PLAN_FILE}); give the output folder of one or more"
        )
    return tuple(found)


def state_folders(output: Path) -> tuple[Path, ...]:
    """Folders of the runs of an output folder, cleaned ones too, sorted by id."""
    state = output / STATE_FOLDER
    return tuple(
        path
        for path in _folders(state)
        if not state.is_symlink() and ((path / PLAN_FILE).is_file() or (path / CLEANED_PLAN_FILE).is_file())
    )


def _folders(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise OutputError(f"{folder} cannot be listed: {error.strerror or error}") from error
    yield from (folder / name for name in names)
