"""A finished map as a STAC 1.1 item: pure functions from what was mapped to JSON-able dictionaries.

Written by hand rather than through pystac's extension helpers, which still write raster 1.1 and mlm 1.4; the versions
in use are in :data:`EXTENSIONS`. All links inside the catalog are relative, so the output folder can be moved.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import shapely
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from pipeline.errors import OutputError
from pipeline.machine.addresses import public_address, published_text
from pipeline.outputs.assets import ASSETS, GEOJSON_TYPE, JSON_TYPE, raster_fields
from pipeline.outputs.imprint import Imprint
from pipeline.predict.stitch import CONFIDENCE_NODATA
from pipeline.records.plan import ZoneGrid
from pipeline.records.scene import Scene
from spex_core.legend import Legend

STAC_VERSION = "1.1.0"
EXTENSIONS: dict[str, str] = {
    name: f"https://stac-extensions.github.io/{name}/v{version}/schema.json"
    for name, version in {
        "classification": "2.0.0",
        "eo": "2.0.0",
        "file": "2.1.0",
        "mlm": "1.5.2",
        "processing": "1.2.0",
        "projection": "1.2.0",
        "raster": "2.0.0",
        "render": "2.0.0",
    }.items()
}
"""Extension name → the schema of the version that is written. Projection 1.2 knows ``proj:code`` and the older
``proj:epsg``, without which stackstac has no grid; 2.0 refuses the latter."""
CATALOG_TITLE = "SPEX land-cover maps"

CATALOG_FROM_ITEM = "../../catalog.json"
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_MAX_VERTICES = 2000
_LONLAT_DIGITS = 7


@dataclass(frozen=True)
class MapProduct:
    """What is known about one zone's map when it is published."""

    run_name: str
    run_id: str
    start: dt.date
    end: dt.date
    """Last day, inclusive."""
    grid: ZoneGrid
    geometry: BaseGeometry
    """The mapped part of the region, lon/lat."""
    legend: Legend
    scenes: tuple[Scene, ...]
    software: Mapping[str, str]
    version: str
    """Version of this software."""
    created: dt.datetime
    """UTC."""
    lineage: str
    """One or two sentences: what was done to which scenes."""
    composite: str = "median"
    """``composite.method``."""
    class_pixels: Mapping[int, int] = field(default_factory=dict)
    observed_share: float | None = None
    mean_confidence: float | None = None
    missing_blocks: tuple[int, ...] = ()
    problems: tuple[str, ...] = ()
    skipped_scenes: tuple[tuple[str, str], ...] = ()
    """Item id and why it was not used."""
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    """Measured against a reference, where there is one."""
    imprint: Imprint = field(default_factory=Imprint)

    @property
    def item_id(self) -> str:
        """Id of the item."""
        return item_id(self.run_name, self.start, self.end, self.grid.epsg)


def safe_id(text: str, what: str) -> str:
    """Returns an id that may name a folder.

    Raises:
        OutputError: It could leave the output folder or break a link.
    """
    if not _SAFE_ID.fullmatch(text):  # starts with a letter or digit and has no slash: never ".."
        raise OutputError(f"{what} {text!r} cannot name a folder; use letters, digits, '.', '_' and '-'")
    return text


def item_id(run_name: str, start: dt.date, end: dt.date, epsg: int) -> str:
    """``<run name>_<start>_<end>_<epsg>``: one per run name, period and zone.

    Raises:
        OutputError: The run name is not safe in a path.
    """
    return safe_id(f"{run_name}_{start.isoformat()}_{end.isoformat()}_{epsg}", "run name")


def item_folder(output: Path, collection_id: str, item: str) -> Path:
    """Where an item and its files live.

    Raises:
        OutputError: An id is not safe in a path.
    """
    return output / safe_id(collection_id, "collection id") / safe_id(item, "item id")


def map_item(
    product: MapProduct, folder: Path, collection_id: str, *, model_link: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Builds the item of one zone from its description and the files in its folder.

    Args:
        product: What was mapped.
        folder: Holds ``landcover.tif`` and whatever other files were written.
        collection_id: Its collection.
        model_link: ``derived_from`` link to the model, see :func:`pipeline.outputs.stac_model.model_link`.

    Raises:
        OutputError: ``landcover.tif`` is missing or a file cannot be read.
    """
    if not (folder / ASSETS["landcover"].file).is_file():
        raise OutputError(f"{folder} has no landcover.tif; write the map before its STAC item")
    footprint = _footprint(product.geometry)
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [
            *(EXTENSIONS[n] for n in ("classification", "file", "processing", "projection", "raster", "render")),
            *product.imprint.extensions(),
        ],
        "id": product.item_id,
        "collection": collection_id,
        "geometry": mapping_of(footprint),
        "bbox": [round(v, _LONLAT_DIGITS) for v in footprint.bounds],
        "properties": _properties(product, model_link),
        "assets": _assets(product, folder),
        "links": _links(product, folder, collection_id, model_link),
    }


def classes(legend: Legend, pixels: Mapping[int, int] | None = None) -> list[dict[str, Any]]:
    """``classification:classes`` of a legend, with counts and percentages where they were measured."""
    total = sum(pixels.values()) if pixels else 0
    entries: list[dict[str, Any]] = [{"value": legend.nodata, "name": "nodata", "title": "No data", "nodata": True}]
    for c in legend:
        entry: dict[str, Any] = {
            "value": c.code,
            "name": re.sub(r"[^0-9A-Za-z_-]+", "-", c.name).strip("-").lower() or f"class-{c.code}",
            "title": c.name,
            "description": c.name,
            "color_hint": c.color[1:].upper(),
        }
        if pixels and total:
            entry["count"] = int(pixels.get(c.code, 0))
            entry["percentage"] = round(100 * pixels.get(c.code, 0) / total, 4)
        entries.append(entry)
    return entries


def timestamp(moment: dt.datetime) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def multihash(path: Path) -> str:
    """sha2-256 multihash of a file, hex (STAC file extension: code 0x12, length 0x20, digest).

    Raises:
        OutputError: The file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return "1220" + hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise OutputError(f"{path} cannot be read for its checksum: {error}") from error


def mapping_of(geometry: BaseGeometry) -> dict[str, Any]:
    """GeoJSON of a geometry, coordinates as lists, rounded to a centimetre."""
    rounded = shapely.transform(geometry, lambda xy: xy.round(_LONLAT_DIGITS))
    listed: dict[str, Any] = _listed(dict(mapping(rounded)))
    return listed


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _listed(v) for k, v in value.items()}
    return [_listed(v) for v in value] if isinstance(value, list | tuple) else value


def _footprint(geometry: BaseGeometry) -> BaseGeometry:
    """A catalog's geometry is for searching: detailed coastlines are simplified until they are small.

    Simplifying keeps every part, so a region of very many parts (fields, islands) becomes its convex hull instead.
    """
    tolerance = 1e-5
    simple = geometry
    while shapely.get_num_coordinates(simple) > _MAX_VERTICES and tolerance < 1.0:  # degrees
        simple = shapely.simplify(geometry, tolerance)
        tolerance *= 2
    if shapely.get_num_coordinates(simple) > _MAX_VERTICES:
        simple = geometry.convex_hull
    too_detailed = shapely.get_num_coordinates(simple) > _MAX_VERTICES
    return geometry.envelope if simple.is_empty or too_detailed else simple


def _properties(product: MapProduct, model_link: Mapping[str, Any] | None) -> dict[str, Any]:
    grid, step = product.grid, product.grid.resolution_m
    right, bottom = grid.left + grid.width * step, grid.top - grid.height * step
    created = timestamp(product.created)
    properties: dict[str, Any] = {
        "title": f"Land cover of {product.run_name}, {product.start} to {product.end}",
        "description": f"{product.legend.title}; mapped from {len(product.scenes)} Sentinel-2 scene(s).",
        # The first moment: a nominal time, because tools that stack items by time read nothing else.
        "datetime": f"{product.start.isoformat()}T00:00:00Z",
        "start_datetime": f"{product.start.isoformat()}T00:00:00Z",
        "end_datetime": f"{product.end.isoformat()}T23:59:59Z",
        "created": created,
        "updated": created,
        "constellation": "sentinel-2",
        "instruments": ["msi"],
        "gsd": step,
        "proj:code": f"EPSG:{grid.epsg}",
        "proj:epsg": grid.epsg,
        "proj:shape": [grid.height, grid.width],
        "proj:transform": [step, 0.0, grid.left, 0.0, -step, grid.top, 0.0, 0.0, 1.0],
        "proj:bbox": [grid.left, bottom, right, grid.top],
        "processing:level": "L4",
        "processing:lineage": product.lineage,
        "processing:datetime": created,
        "processing:version": product.version,
        "processing:software": dict(product.software),
        "renders": _renders(product.legend),
        "spex:run_name": product.run_name,
        "spex:run_id": product.run_id,
        "spex:legend": product.legend.name,
        "spex:composite": product.composite,
        "spex:scenes": len(product.scenes),
        **product.imprint.fields(),
        "spex:problems": len(product.problems) + len(product.missing_blocks) + len(product.skipped_scenes),
    }
    if model_link is not None:
        properties["processing:expression"] = {"format": "stac-mlm", "expression": model_link["href"]}
    for name, share in (
        ("spex:observed_share", product.observed_share),
        ("spex:mean_confidence", product.mean_confidence),
    ):
        if share is not None:
            properties[name] = round(share, 6)
    if product.accuracy:
        properties["spex:accuracy"] = dict(product.accuracy)
    if product.missing_blocks:
        properties["spex:missing_blocks"] = sorted(product.missing_blocks)
    if product.problems:
        properties["spex:problem_messages"] = [published_text(line) for line in product.problems]
    if product.skipped_scenes:
        properties["spex:skipped_scenes"] = [
            {"id": i, "reason": published_text(reason)} for i, reason in product.skipped_scenes
        ]
    return properties


def _renders(legend: Legend) -> dict[str, Any]:
    return {
        "landcover": {
            "title": legend.title,
            "assets": ["landcover"],
            "nodata": legend.nodata,
            "resampling": "nearest",
            "colormap": {str(code): list(rgba) for code, rgba in sorted(legend.colormap().items())},
        },
        "confidence": {
            "title": "Confidence, percent",
            "assets": ["confidence"],
            "nodata": CONFIDENCE_NODATA,
            "rescale": [[0, 100]],
            "colormap_name": "viridis",
        },
    }


def _assets(product: MapProduct, folder: Path) -> dict[str, Any]:
    assets = {}
    for key, kind in ASSETS.items():
        path = folder / kind.file
        if path.is_file():
            assets[key] = {
                "href": f"./{kind.file}",
                "title": kind.title,
                "type": kind.media_type,
                "roles": list(kind.roles),
                **_raster_fields(key, product),
                "file:size": path.stat().st_size,
                "file:checksum": multihash(path),
            }
    return assets


def _raster_fields(key: str, product: MapProduct) -> dict[str, Any]:
    fields = raster_fields(key, product.legend, product.grid.resolution_m)
    if key == "landcover":
        fields["classification:classes"] = classes(product.legend, product.class_pixels)
    return fields


def _links(
    product: MapProduct, folder: Path, collection_id: str, model_link: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    own = f"{collection_id}/{product.item_id}/{product.item_id}.json"
    links: list[dict[str, Any]] = [
        {"rel": "root", "href": CATALOG_FROM_ITEM, "type": JSON_TYPE, "title": CATALOG_TITLE},
        {"rel": "parent", "href": "../collection.json", "type": JSON_TYPE, "title": collection_id},
        {"rel": "collection", "href": "../collection.json", "type": JSON_TYPE, "title": collection_id},
        *product.imprint.self_link(own, GEOJSON_TYPE, product.item_id),
    ]
    links += _scene_links(product.scenes)
    if model_link is not None:
        links.append(dict(model_link))
    plan = ASSETS["plan"].file
    if (folder / plan).is_file():
        title = f"Plan of run {product.run_id}"
        links.append({"rel": "processing-execution", "href": f"./{plan}", "type": JSON_TYPE, "title": title})
    return links


def _scene_links(scenes: Sequence[Scene]) -> list[dict[str, Any]]:
    """``derived_from`` every scene whose item has an address."""
    found = {public_address(s.self_href): s.id for s in sorted(scenes, key=lambda s: s.id) if s.self_href}
    return [
        {"rel": "derived_from", "href": href, "type": GEOJSON_TYPE, "title": id_} for href, id_ in found.items() if href
    ]
