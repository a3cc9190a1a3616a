"""Monthly maps of earlier versions, each an output folder of its own: ``OUTPUT/<name>/<period>/``.

What was computed there is taken over into the one folder of all maps, so that publishing a map there computes nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import OutputError
from pipeline.machine.own_files import own_folder, refuse_links
from pipeline.mapstore.store import CLEANED_PLAN_FILE, PLAN_FILE, RESULT_FILE, STATE_FOLDER, run_folder


def is_cleaned_island(island: Path, run_id: str) -> bool:
    """Whether a run's map lies in a folder of its own and its store was cleaned away: it stays where it is."""
    state = run_folder(island, run_id)
    there = (state / CLEANED_PLAN_FILE).is_file() and (state / RESULT_FILE).is_file()
    return there and (island / "catalog.json").is_file()


def adopt(island: Path, output: Path, run_id: str) -> bool:
    """Moves what a run has computed from a folder of its own into the folder of all maps; whether there was anything.

    Raises:
        OutputError: It cannot be moved, or a link stands in the way.
    """
    state, place = run_folder(island, run_id), run_folder(output, run_id)
    if not (state / PLAN_FILE).is_file() or place.exists():
        return False
    refuse_links(island, STATE_FOLDER, f"{STATE_FOLDER}/{run_id}")
    own_folder(output, STATE_FOLDER)
    try:
        os.rename(state, place)
    except OSError as error:
        raise OutputError(f"{state} cannot be moved to {place}: {error.strerror or error}") from error
    return True
