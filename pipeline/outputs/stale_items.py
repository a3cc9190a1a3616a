"""Items that an earlier run of the same name and period left for zones that the region no longer reaches."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.outputs.output_folder import read_object

Run = tuple[str, str, str]
"""Run name, first and last day."""


def run_of(item: Mapping[str, Any]) -> Run | None:
    """The run that made an item, by what it says of itself; ``None`` for items of anybody else."""
    properties = item.get("properties")
    if not isinstance(properties, dict) or not properties.get("spex:run_id"):
        return None
    start, end = (str(properties.get(name))[:10] for name in ("start_datetime", "end_datetime"))
    name, found, _ = str(item.get("id")).rpartition(f"_{start}_{end}_{_epsg(properties)}")
    if not found or properties.get("spex:run_name", name) != name:
        return None
    return name, start, end


def stale_items(folder: Path, fresh: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Ids of items in a collection's folder that runs of ``fresh`` made before and have not made again, sorted.

    Args:
        folder: The collection's folder.
        fresh: All items of the runs that are being published.
    """
    runs = {run for run in map(run_of, fresh) if run is not None}
    made = {str(item["id"]) for item in fresh}
    stale = []
    for name in sorted(os.listdir(folder)):
        if name in made or not any(name.startswith(f"{run}_{start}_{end}_") for run, start, end in runs):
            continue
        path = folder / name
        if path.is_symlink() or (path / f"{name}.json").is_symlink():
            continue  # leads elsewhere: not ours
        item = read_object(path / f"{name}.json")
        if item is not None and item.get("id") == name and run_of(item) in runs:
            stale.append(name)
    return tuple(stale)


def remove_item(folder: Path, item_id: str) -> None:
    """Removes an item with the files that it lists, and its folder if nothing else is left in it.

    Its own file goes last: a removal that was interrupted is finished by the next run.

    Args:
        folder: The collection's folder.
        item_id: From :func:`stale_items`.

    Raises:
        OSError: A file cannot be removed.
    """
    place = folder / item_id
    item = read_object(place / f"{item_id}.json") or {}
    assets = item.get("assets")
    hrefs = [str(asset.get("href")) for asset in (assets or {}).values() if isinstance(asset, dict)]
    names = {href.removeprefix("./") for href in hrefs}
    plain = sorted(name for name in names if PurePosixPath(name).parts == (name,) and name != "..")
    for name in (*plain, *(f"{name}.aux.xml" for name in plain), f"{item_id}.json"):
        with contextlib.suppress(FileNotFoundError):
            (place / name).unlink()  # of a link, the link
    try:
        place.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # somebody's notes stay
            raise


def _epsg(properties: Mapping[str, Any]) -> str:
    return str(properties.get("proj:code")).removeprefix("EPSG:")
