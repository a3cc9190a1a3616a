"""Whether an output folder can take what a run publishes: asked before anything is computed, and again at the end."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.errors import OutputError
from pipeline.machine.own_files import refuse_links

CATALOG_ID = "spex"
CATALOG_FILE = "catalog.json"
COLLECTION_FILE = "collection.json"
PARQUET_FILE = "items.parquet"
REPORT_FOLDER = "report"
REPORT_FILE = "index.html"
VIEW_FOLDER = "view"
"""The page that draws the maps, see :mod:`pipeline.outputs.view_page`."""
_STATE_FOLDER = ".spex"
_MODELS_END = "-models"
_RESERVED = {
    CATALOG_FILE,
    COLLECTION_FILE,
    PARQUET_FILE,
    REPORT_FOLDER,
    VIEW_FOLDER,
    _STATE_FOLDER,
    ".monthly",
    "archive",
}
"""Names that the folder needs for something else; ``archive`` is the demo's."""
_RESERVED_ENDS = {
    ".json": "files of the catalog end so",
    ".parquet": "the table of items ends so",
    ".yaml": "run files end so",
    _MODELS_END: "the collection of the models is called so",
}


def check_output(output: Path, collection_id: str) -> None:
    """Refuses an output folder or collection id that publishing would stumble over; reads little and writes nothing.

    Args:
        output: The run's output folder; need not be there.
        collection_id: Collection of the maps.

    Raises:
        OutputError: The id collides with a file or folder of ours, the folder holds a catalog of somebody else, or
            something is in the way of what will be written; the message says what to change.
    """
    _check_collection_id(collection_id)
    models = collection_id + _MODELS_END
    refuse_links(output, _STATE_FOLDER, collection_id, models, REPORT_FOLDER, VIEW_FOLDER, f"{VIEW_FOLDER}/strings")
    _refuse_folders(
        output / CATALOG_FILE,
        output / REPORT_FOLDER / REPORT_FILE,
        *(output / name / COLLECTION_FILE for name in (collection_id, models)),
        output / collection_id / PARQUET_FILE,
    )
    root = existing(output / CATALOG_FILE, "Catalog")
    if root is not None and root.get("id") != CATALOG_ID and not any((output / _STATE_FOLDER).glob("*/result.json")):
        raise OutputError(
            f"{output / CATALOG_FILE} is a catalog of somebody else (id {str(root.get('id'))[:80]!r}); choose another "
            "output folder or move the file away"
        )
    for name in (collection_id, models):
        existing(output / name / COLLECTION_FILE, "Collection")


def check_items(output: Path, collection_id: str, items: Iterable[str], files: Iterable[str]) -> None:
    """The same for the folders of items, once their ids are known.

    Args:
        output: The run's output folder.
        collection_id: Collection of the maps.
        items: Item ids.
        files: Names that are written in each item's folder, beside the item itself.

    Raises:
        OutputError: A folder is a link, or something is in the way.
    """
    names = list(files)
    for item in items:
        refuse_links(output, f"{collection_id}/{item}")
        folder = output / collection_id / item
        _refuse_folders(*(folder / name for name in (*names, f"{item}.json")))


def existing(path: Path, kind: str) -> dict[str, Any] | None:
    """The STAC object that an earlier run wrote, or ``None``.

    Raises:
        OutputError: The file is there but is something else: it is not overwritten.
    """
    if not path.exists():
        return None
    data = read_object(path)
    if data is None or data.get("type") != kind:
        raise OutputError(f"{path} is not a STAC {kind.lower()}; choose another output folder or move the file away")
    return data


def read_object(path: Path) -> dict[str, Any] | None:
    """A JSON object from a regular file; ``None`` where there is none that can be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for without end
            return None
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _check_collection_id(collection_id: str) -> None:
    # Some file systems know no case: there, Report is report.
    folded = collection_id.casefold()
    reason = "the output folder has a file or folder of that name" if folded in _RESERVED else None
    for end, told in _RESERVED_ENDS.items():
        if folded.endswith(end):
            reason = told
    if reason is not None:
        raise OutputError(f"publish.collection_id {collection_id!r} cannot be used: {reason}; choose another id")


def _refuse_folders(*files: Path) -> None:
    for path in files:
        try:
            mode = os.lstat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise OutputError(f"{path} cannot be looked at: {error.strerror or error}") from error
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):  # a link is replaced, never followed
            raise OutputError(f"{path} cannot be written: it is no file; move it away, or give another --output")
