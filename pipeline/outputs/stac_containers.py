"""The documents that hold others: root catalog, collection of maps, collection of models.

Fields that a person added to one (title, keywords, further links) are kept; extents, summaries and what describes the
items is made anew from the items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.outputs.assets import ASSETS, JSON_TYPE, PARQUET_TYPE, raster_fields
from pipeline.outputs.imprint import COPERNICUS, SCIENTIFIC, Imprint
from pipeline.outputs.output_folder import CATALOG_FILE, CATALOG_ID, COLLECTION_FILE
from pipeline.outputs.stac_item import CATALOG_TITLE, EXTENSIONS, STAC_VERSION, classes
from pipeline.outputs.stac_model import MODELS_TITLE
from spex_core.legend import Legend

Members = list[tuple[dict[str, Any], dict[str, Any] | None]]
"""Item links of a collection, each with its item (``None`` where it cannot be read)."""
_GLOBE = [-180.0, -90.0, 180.0, 90.0]


def links_of(document: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Links of a document that may be anybody's."""
    links = (document or {}).get("links")
    return [link for link in links if isinstance(link, dict) and "href" in link] if isinstance(links, list) else []


def map_collection(
    collection_id: str,
    existing: Mapping[str, Any] | None,
    members: Members,
    legend: Legend,
    resolution_m: float,
    imprint: Imprint,
) -> dict[str, Any]:
    """The collection of the maps, from its items and what it said before."""
    items = [item for _, item in members if item is not None]
    kept = _kept(existing)
    codes = sorted({str(i["properties"]["proj:code"]) for i in items if i["properties"].get("proj:code")})
    pixel_sizes = sorted({float(i["properties"]["gsd"]) for i in items if i["properties"].get("gsd")}) or [resolution_m]
    return {
        "type": "Collection",
        "id": collection_id,
        "title": "SPEX land-cover maps",
        "description": "Land-cover maps made from Sentinel-2 with SPEX, one item per run, period and UTM zone.",
        "license": "other",
        "keywords": ["land cover", "sentinel-2", "spex"],
        "providers": [COPERNICUS],
        **kept,
        **imprint.fields(),
        "stac_version": STAC_VERSION,
        "stac_extensions": [
            *(EXTENSIONS[n] for n in ("classification", "file", "projection", "raster")),
            *([SCIENTIFIC] if "sci:citation" in {**kept, **imprint.fields()} else []),
        ],
        "extent": _extent(items),
        "summaries": {"constellation": ["sentinel-2"], "gsd": pixel_sizes, "proj:code": codes},
        "item_assets": _item_assets(items, legend, resolution_m),
        "assets": {
            "items": {
                "href": "./items.parquet",
                "title": "All items as stac-geoparquet",
                "type": PARQUET_TYPE,
                "roles": ["collection-mirror"],
            },
            **_thumbnail(items),
        },
        "links": _collection_links(collection_id, existing, members, imprint),
    }


def _item_assets(items: Sequence[Mapping[str, Any]], legend: Legend, resolution_m: float) -> dict[str, Any]:
    """Every asset that some item has."""
    present = {key for item in items for key in item.get("assets") or {}}
    described: dict[str, Any] = {}
    for key, kind in ASSETS.items():
        if key in present:
            fields = raster_fields(key, legend, resolution_m)
            described[key] = {"title": kind.title, "type": kind.media_type, "roles": list(kind.roles), **fields}
    if "landcover" in described:
        described["landcover"]["classification:classes"] = classes(legend)
    return described


def _thumbnail(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The picture of the newest map."""
    pictured = [item for item in items if "thumbnail" in (item.get("assets") or {})]
    if not pictured:
        return {}
    newest = max(pictured, key=lambda item: (str(item["properties"].get("end_datetime")), str(item["id"])))
    kind = ASSETS["thumbnail"]
    asset = {"title": f"Newest map: {newest['id']}", "type": kind.media_type, "roles": ["thumbnail"]}
    return {"thumbnail": {"href": f"./{newest['id']}/{kind.file}", **asset}}


def model_collection(
    collection_id: str,
    existing: Mapping[str, Any] | None,
    members: Members,
    imprint: Imprint,
) -> dict[str, Any]:
    """The collection of the models."""
    return {
        "type": "Collection",
        "id": collection_id,
        "title": MODELS_TITLE,
        "description": "The models that made the maps beside this collection (STAC mlm extension).",
        "license": "other",
        **_kept(existing),
        "stac_version": STAC_VERSION,
        "stac_extensions": [],
        "extent": _extent([item for _, item in members if item is not None]),
        "links": _collection_links(collection_id, existing, members, imprint),
    }


def _kept(existing: Mapping[str, Any] | None) -> dict[str, Any]:
    """Fields of an existing container that people may have edited."""
    made_anew = {"links", "extent", "summaries", "item_assets", "assets", "stac_extensions", "stac_version"}
    return {key: value for key, value in (existing or {}).items() if key not in made_anew}


def _collection_links(
    collection_id: str,
    existing: Mapping[str, Any] | None,
    members: Members,
    imprint: Imprint,
) -> list[dict[str, Any]]:
    own = ("root", "parent", "item", "self")
    return [
        {"rel": "root", "href": "../catalog.json", "type": JSON_TYPE, "title": CATALOG_TITLE},
        {"rel": "parent", "href": "../catalog.json", "type": JSON_TYPE, "title": CATALOG_TITLE},
        *imprint.self_link(f"{collection_id}/{COLLECTION_FILE}", JSON_TYPE, collection_id),
        *[link for link in links_of(existing) if link.get("rel") not in own],
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


def root_catalog(existing: Mapping[str, Any] | None, children: Sequence[str], imprint: Imprint) -> dict[str, Any]:
    """The catalog that a reader starts at."""
    links = {str(link["href"]): link for link in links_of(existing) if link.get("rel") == "child"}
    for id_ in children:
        href = f"./{id_}/collection.json"
        links.setdefault(href, {"rel": "child", "href": href, "type": JSON_TYPE, "title": id_})
    other = [link for link in links_of(existing) if link.get("rel") not in ("root", "self", "child")]
    return {
        "type": "Catalog",
        "id": CATALOG_ID,
        "title": CATALOG_TITLE,
        "description": "Land-cover maps made from Sentinel-2 with SPEX.",
        **_kept(existing),
        "stac_version": STAC_VERSION,
        "links": [
            {"rel": "root", "href": "./catalog.json", "type": JSON_TYPE, "title": CATALOG_TITLE},
            *imprint.self_link(CATALOG_FILE, JSON_TYPE, CATALOG_TITLE),
            *other,
            *(links[href] for href in sorted(links)),
        ],
    }
