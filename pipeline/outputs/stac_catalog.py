"""The catalog in an output folder: new items join what earlier runs left there, and nothing of theirs is lost.

Fields that a person added to a collection (title, license, providers, keywords) are kept; links, extents, summaries and
``items.parquet`` are made anew from the items. Order of writing: items, parquet, collections, root; a reader that
starts at the root never follows a link to something that is not there yet.
"""

from __future__ import annotations

import posixpath
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import rustac

from pipeline.errors import OutputError
from pipeline.machine import lock
from pipeline.machine.addresses import public_document
from pipeline.machine.atomic_files import renew_bytes, renew_json
from pipeline.machine.own_files import own_folder
from pipeline.outputs.assets import GEOJSON_TYPE
from pipeline.outputs.imprint import Imprint
from pipeline.outputs.index_page import map_entry, render_index
from pipeline.outputs.output_folder import (
    CATALOG_FILE,
    COLLECTION_FILE,
    PARQUET_FILE,
    REPORT_FILE,
    REPORT_FOLDER,
    existing,
    read_object,
)
from pipeline.outputs.stac_containers import Members, links_of, map_collection, model_collection, root_catalog
from pipeline.outputs.stac_item import safe_id
from pipeline.outputs.stac_model import models_collection_id
from pipeline.outputs.stale_items import remove_item, stale_items
from pipeline.outputs.view_page import write_page
from spex_core.legend import Legend

LOCK_WAIT_S = 300.0
"""How long another run may take to write its entries; longer means that it hangs."""


class CatalogWarning(UserWarning):
    """Something in an existing catalog could not be read and was left as it is."""


@dataclass(frozen=True)
class CatalogFiles:
    """What was written."""

    catalog: Path
    collection: Path
    items: tuple[Path, ...]
    parquet: Path
    index: Path
    """The page that lists all maps."""
    model: Path | None
    removed: tuple[str, ...] = ()
    """Ids of items that earlier runs of the same name and period left for zones that the region no longer reaches."""


def publish(
    output: Path,
    collection_id: str,
    items: Sequence[dict[str, Any]],
    legend: Legend,
    *,
    model: dict[str, Any] | None = None,
    resolution_m: float = 10.0,
    imprint: Imprint | None = None,
) -> CatalogFiles:
    """Writes items, their collection and the root catalog; merges with what is there.

    Args:
        output: The output folder; the items' files are in place.
        collection_id: Collection of the maps.
        items: From :func:`pipeline.outputs.stac_item.map_item`.
        legend: For the collection's description of its classes.
        model: From :func:`pipeline.outputs.stac_model.model_item`.
        resolution_m: Pixel size, for the collection's description of its assets.
        imprint: Who publishes; default: nothing is said.

    Raises:
        OutputError: Not writable, or ``catalog.json`` there is no STAC catalog.
    """
    safe_id(collection_id, "collection id")
    imprint = imprint or Imprint()
    with catalog_lock(output):
        root_path = output / CATALOG_FILE
        root = existing(root_path, "Catalog")
        folder = own_folder(output, collection_id)
        written = tuple(_write_item(output, collection_id, item) for item in items)
        parquet = folder / PARQUET_FILE
        collection_path = folder / COLLECTION_FILE
        collection = existing(collection_path, "Collection")
        stale = stale_items(folder, items)
        members = _members(folder, collection, items, stale)
        found = [item for _, item in members if item is not None]
        _write_parquet(parquet, [_from_the_table(item, collection_id, imprint.url) for item in found])
        renewed = map_collection(collection_id, collection, members, legend, resolution_m, imprint)
        renew_json(collection_path, renewed)
        children = [collection_id]
        model_path = None
        if model is not None:
            models_id = models_collection_id(collection_id)
            model_path = _write_item(output, models_id, model)
            models_path = output / models_id / COLLECTION_FILE
            models = existing(models_path, "Collection")
            models_members = _members(output / models_id, models, [model])
            renew_json(models_path, model_collection(models_id, models, models_members, imprint))
            children.append(models_id)
        index = own_folder(output, REPORT_FOLDER) / REPORT_FILE
        renewed_root = root_catalog(root, children, imprint)
        maps = _all_maps(output, renewed_root, collection_id, found)
        renew_bytes(index, render_index(map_entry(*one) for one in maps).encode())
        write_page(output, maps)
        renew_json(root_path, renewed_root)
        for item_id in stale:  # last: no link leads there any more
            _remove(folder, item_id)
    return CatalogFiles(root_path, collection_path, written, parquet, index, model_path, stale)


# -- files -------------------------------------------------------------------------------------------------------------


@contextmanager
def catalog_lock(output: Path) -> Iterator[None]:
    """Two runs that end at once must not lose each other's links.

    Raises:
        OutputError: Another process has held it for long, or it cannot be locked.
    """
    path = own_folder(output, ".spex") / "catalog.lock"
    try:
        held = lock.take(path, wait_s=LOCK_WAIT_S)
    except lock.LockedError as error:
        raise OutputError(f"the catalog in {output} is being written by {error.holder}; wait for it") from None
    except OSError as error:
        raise OutputError(f"{path} cannot be locked: {error.strerror or error}") from error
    with held:
        yield


def _write_item(output: Path, collection_id: str, item: dict[str, Any]) -> Path:
    id_ = safe_id(str(item["id"]), "item id")
    path = own_folder(output, collection_id, id_) / f"{id_}.json"
    earlier = read_object(path) or {}
    first = (earlier.get("properties") or {}).get("created")
    if first:
        item = {**item, "properties": {**item["properties"], "created": first}}
    renew_json(path, public_document(item))
    return path


def _remove(folder: Path, item_id: str) -> None:
    try:
        remove_item(folder, item_id)
    except OSError as error:
        warnings.warn(
            f"{folder / item_id} is of a zone that the region no longer reaches and cannot be removed: {error}",
            CatalogWarning,
            stacklevel=3,
        )


def _write_parquet(path: Path, items: list[dict[str, Any]]) -> None:
    try:
        with TemporaryDirectory(prefix="spex-") as scratch:
            draft = Path(scratch) / PARQUET_FILE
            rustac.write_sync(str(draft), items, format="parquet")
            content = draft.read_bytes()
    except Exception as error:  # rustac raises its own untyped errors and OSError
        raise OutputError(f"{path} cannot be written: {error}") from error
    renew_bytes(path, content)


def _from_the_table(item: Mapping[str, Any], collection_id: str, url: str | None) -> dict[str, Any]:
    """An item as the table beside its collection has it: relative addresses start there, not in the item's folder.

    With an address of the output folder they are absolute: an API that serves the table leads nowhere else.
    """

    def rebased(href: str) -> str:
        if "://" in href or href.startswith(("/", "urn:")):
            return href
        path = posixpath.normpath(posixpath.join(str(item["id"]), href))
        if url is not None:
            return f"{url}/{posixpath.normpath(posixpath.join(collection_id, path))}"
        return path if path.startswith("..") else f"./{path}"

    def moved(part: Mapping[str, Any]) -> dict[str, Any]:
        return {**part, "href": rebased(str(part["href"]))}

    assets = {key: moved(asset) for key, asset in (item.get("assets") or {}).items()}
    return {**item, "assets": assets, "links": [moved(link) for link in links_of(item)]}


def _all_maps(
    output: Path, root: Mapping[str, Any], collection_id: str, fresh: Sequence[Mapping[str, Any]]
) -> list[tuple[str, Mapping[str, Any]]]:
    """The maps of all collections in the folder, each with its collection's id, for the pages that show them."""
    entries = [(collection_id, item) for item in fresh]
    for link in links_of(root):
        parts = PurePosixPath(str(link["href"])).parts
        if (
            link.get("rel") != "child"
            or len(parts) != 2
            or parts[1] != COLLECTION_FILE
            or not _stays_inside(link["href"])
        ):
            continue
        other = parts[0]
        if other == collection_id or other.endswith("-models") or (output / other).is_symlink():
            continue
        members = _members(output / other, read_object(output / other / COLLECTION_FILE), ())
        entries += [(other, item) for _, item in members if item is not None]
    return entries


def _members(
    folder: Path, collection: Mapping[str, Any] | None, new: Sequence[Mapping[str, Any]], gone: Sequence[str] = ()
) -> Members:
    """Item links of a collection, sorted by address, each with its item (``None`` where it cannot be read).

    Links to items of ``gone`` are left out.
    """
    links = {str(link["href"]): dict(link) for link in links_of(collection) if link.get("rel") == "item"}
    for item in new:
        href = f"./{item['id']}/{item['id']}.json"
        links[href] = {"rel": "item", "href": href, "type": GEOJSON_TYPE, "title": item["properties"].get("title")}
    members = []
    left_out = {(id_, f"{id_}.json") for id_ in gone}
    for href, link in sorted(links.items()):
        if PurePosixPath(href).parts in left_out:
            continue
        found = read_object(folder / href) if _stays_inside(href) else None
        if found is None or found.get("type") != "Feature":
            warnings.warn(
                f"{folder / 'collection.json'} links to {href}, which cannot be read; the link is kept",
                CatalogWarning,
                stacklevel=3,
            )
            found = None
        members.append((link, found))
    return members


def _stays_inside(href: str) -> bool:
    path = PurePosixPath(href)
    return "://" not in href and not path.is_absolute() and ".." not in path.parts
