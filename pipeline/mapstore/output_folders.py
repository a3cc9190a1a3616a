"""Output folders below a folder that a user names: the folder itself, or those of every region and period below it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import OutputError
from pipeline.mapstore.store import CLEANED_PLAN_FILE, PLAN_FILE, STATE_FOLDER

MONTHLY_FOLDER = ".monthly"
"""Below the folder of monthly maps: ``<region>/<period>`` beside it are output folders."""


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
