"""The catalog in an output folder: new items join what earlier runs left there, and nothing of theirs is lost.

Fields that a person added to a collection (title, license, providers, keywords) are kept; links, extents, summaries and
``items.parquet`` are made anew from the items. Order of writing: items, parquet, collections, root; a reader that
starts at the root never follows a link to something that is not there yet.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import rustac

from pipeline.errors import OutputError
from pipeline.machine import lock
from pipeline.machine.atomic_files import replacing, write_json
from pipeline.machine.own_files import own_folder
from pipeline.outputs.output_folder import (
    CATALOG_FILE,
    CATALOG_ID,
    COLLECTION_FILE,
    PARQUET_FILE,
    existing,
    read_object,
)
from pipeline.outputs.stac_item import (
    COG_TYPE,
    EXTENSIONS,
    GEOJSON_TYPE,
    JSON_TYPE,
    STAC_VERSION,
    classes,
    raster_fields,
    safe_id,
)
from pipeline.outputs.stac_model import models_collection_id
from pipeline.outputs.stale_items import remove_item, stale_items
from spex_core.legend import Legend

PARQUET_TYPE = "application/vnd.apache.parquet"
LOCK_WAIT_S = 300.0
"""How long another run may take to write its entries; longer means that it hangs."""
_GLOBE = [-180.0, -90.0, 180.0, 90.0]


class CatalogWarning(UserWarning):
    """Something in an existing catalog could not be read and was left as it is."""


@dataclass(frozen=True)
class CatalogFiles:
    """What was written."""

    catalog: Path
    collection: Path
    items: tuple[Path, ...]
    parquet: Path
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
) -> CatalogFiles:
    """Writes items, their collection and the root catalog; merges with what is there.

    Args:
        output: The output folder; the items' files are in place.
        collection_id: Collection of the maps.
        items: From :func:`pipeline.outputs.stac_item.map_item`.
        legend: For the collection's description of its classes.
        model: From :func:`pipeline.outputs.stac_model.model_item`.
        resolution_m: Pixel size, for the collection's description of its assets.

    Raises:
        OutputError: Not writable, or ``catalog.json`` there is no STAC catalog.
    """
    safe_id(collection_id, "collection id")
    with _lock(output):
        root_path = output / CATALOG_FILE
        root = existing(root_path, "Catalog")
        folder = own_folder(output, collection_id)
        written = tuple(_write_item(output, collection_id, item) for item in items)
        parquet = folder / PARQUET_FILE
        collection_path = folder / COLLECTION_FILE
        collection = existing(collection_path, "Collection")
        stale = stale_items(folder, items)
        members = _members(folder, collection, items, stale)
        _write_parquet(parquet, [item for _, item in members if item is not None])
        write_json(collection_path, _map_collection(collection_id, collection, members, legend, resolution_m))
        children = [collection_id]
        model_path = None
        if model is not None:
            models_id = models_collection_id(collection_id)
            model_path = _write_item(output, models_id, model)
            models_path = output / models_id / COLLECTION_FILE
            models = existing(models_path, "Collection")
            models_members = _members(output / models_id, models, [model])
            write_json(models_path, _model_collection(models_id, models, models_members))
            children.append(models_id)
        write_json(root_path, _root(root, children))
        for item_id in stale:  # last: no link leads there any more
            _remove(folder, item_id)
    return CatalogFiles(root_path, collection_path, written, parquet, model_path, stale)


# -- files -------------------------------------------------------------------------------------------------------------


@contextmanager
def _lock(output: Path) -> Iterator[None]:
    """Two runs that end at once must not lose each other's links."""
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
    write_json(path, item)
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
    with replacing(path) as temporary:
        try:
            rustac.write_sync(str(temporary), items, format="parquet")
        except Exception as error:  # rustac raises its own untyped errors and OSError
            raise OutputError(f"{path} cannot be written: {error}") from error


def _members(
    folder: Path, collection: Mapping[str, Any] | None, new: Sequence[Mapping[str, Any]], gone: Sequence[str] = ()
) -> list[tuple[dict[str, Any], dict[str, Any] | None]]:
    """Item links of a collection, sorted by address, each with its item (``None`` where it cannot be read).

    Links to items of ``gone`` are left out.
    """
    links = {str(link["href"]): dict(link) for link in _links(collection) if link.get("rel") == "item"}
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


def _links(container: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    links = (container or {}).get("links")
    return [link for link in links if isinstance(link, dict) and "href" in link] if isinstance(links, list) else []


# -- containers --------------------------------------------------------------------------------------------------------


def _map_collection(
    collection_id: str,
    existing: Mapping[str, Any] | None,
    members: Sequence[tuple[dict[str, Any], dict[str, Any] | None]],
    legend: Legend,
    resolution_m: float,
) -> dict[str, Any]:
    items = [item for _, item in members if item is not None]
    kept = _kept(existing)
    codes = sorted({str(i["properties"]["proj:code"]) for i in items if i["properties"].get("proj:code")})
    pixel_sizes = sorted({float(i["properties"]["gsd"]) for i in items if i["properties"].get("gsd")}) or [resolution_m]
    landcover = {
        "title": "Land cover class",
        "type": COG_TYPE,
        "roles": ["data"],
        **raster_fields("landcover", legend, resolution_m),
        "classification:classes": classes(legend),
    }
    return {
        "type": "Collection",
        "id": collection_id,
        "title": "SPEX land-cover maps",
        "description": "Land-cover maps made from Sentinel-2 with SPEX, one item per run, period and UTM zone.",
        "license": "other",
        "keywords": ["land cover", "sentinel-2", "spex"],
        "providers": [
            {
                "name": "European Union/ESA/Copernicus",
                "description": "Contains modified Copernicus Sentinel data",
                "roles": ["licensor"],
                "url": "https://dataspace.copernicus.eu",
            }
        ],
        **kept,
        "stac_version": STAC_VERSION,
        "stac_extensions": [EXTENSIONS[n] for n in ("classification", "projection", "raster")],
        "extent": _extent(items),
        "summaries": {"constellation": ["sentinel-2"], "gsd": pixel_sizes, "proj:code": codes},
        "item_assets": {
            "landcover": landcover,
            "confidence": {
                "title": "Confidence of the class, percent",
                "type": COG_TYPE,
                "roles": ["data", "metadata"],
                **raster_fields("confidence", legend, resolution_m),
            },
        },
        "assets": {
            "items": {
                "href": "./items.parquet",
                "title": "All items as stac-geoparquet",
                "type": PARQUET_TYPE,
                "roles": ["collection-mirror"],
            }
        },
        "links": _collection_links(existing, members),
    }


def _model_collection(
    collection_id: str,
    existing: Mapping[str, Any] | None,
    members: Sequence[tuple[dict[str, Any], dict[str, Any] | None]],
) -> dict[str, Any]:
    return {
        "type": "Collection",
        "id": collection_id,
        "title": "Models of the land-cover maps",
        "description": "The models that made the maps beside this collection (STAC mlm extension).",
        "license": "other",
        **_kept(existing),
        "stac_version": STAC_VERSION,
        "stac_extensions": [],
        "extent": _extent([item for _, item in members if item is not None]),
        "links": _collection_links(existing, members),
    }


def _kept(existing: Mapping[str, Any] | None) -> dict[str, Any]:
    """Fields of an existing container that people may have edited."""
    made_anew = {"links", "extent", "summaries", "item_assets", "assets", "stac_extensions", "stac_version"}
    return {key: value for key, value in (existing or {}).items() if key not in made_anew}


def _collection_links(
    existing: Mapping[str, Any] | None, members: Sequence[tuple[dict[str, Any], dict[str, Any] | None]]
) -> list[dict[str, Any]]:
    own = ("root", "parent", "item", "self")
    return [
        {"rel": "root", "href": "../catalog.json", "type": JSON_TYPE},
        {"rel": "parent", "href": "../catalog.json", "type": JSON_TYPE},
        *[link for link in _links(existing) if link.get("rel") not in own],
        *[link for link, _ in members],
    ]


def _extent(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    boxes = [item["bbox"] for item in items if item.get("bbox")]
    starts = [item["properties"].get("start_datetime") for item in items]
    ends = [item["properties"].get("end_datetime") for item in items]
    whole = [f(b[i] for b in boxes) for i, f in enumerate((min, min, max, max))] if boxes else _GLOBE
    first = min((s for s in starts if s), default=None)
    return {
        "spatial": {"bbox": [whole]},
        "temporal": {"interval": [[first, max((e for e in ends if e), default=None)]]},
    }


def _root(existing: Mapping[str, Any] | None, children: Sequence[str]) -> dict[str, Any]:
    links = {str(link["href"]): link for link in _links(existing) if link.get("rel") == "child"}
    for id_ in children:
        href = f"./{id_}/collection.json"
        links.setdefault(href, {"rel": "child", "href": href, "type": JSON_TYPE, "title": id_})
    other = [link for link in _links(existing) if link.get("rel") not in ("root", "self", "child")]
    return {
        "type": "Catalog",
        "id": CATALOG_ID,
        "title": "SPEX land-cover maps",
        "description": "Land-cover maps made from Sentinel-2 with SPEX.",
        **_kept(existing),
        "stac_version": STAC_VERSION,
        "links": [
            {"rel": "root", "href": "./catalog.json", "type": JSON_TYPE},
            *other,
            *(links[href] for href in sorted(links)),
        ],
    }
