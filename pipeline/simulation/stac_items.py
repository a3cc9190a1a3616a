"""STAC items of simulated granules, in the manner of Earth Search v1 and of the Planetary Computer.

Sources: items of both public APIs; STAC 1.0 and 1.1, extensions projection 1.1 and 2.0, eo, raster, mgrs, grid.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import shapely
from pyproj import Transformer

from pipeline.simulation.granules import Granule
from pipeline.simulation.scene import OFFSET_DN, QUANTIFICATION, Acquisition, Frame
from spex_core.bands import BANDS
from spex_core.legend import Legend

Style = Literal["earth-search", "planetary-computer"]
Projection = Literal["1", "2"]

COLLECTION = "sentinel-2-l2a"
SCL_GSD_M = 20
LABEL_COLLECTION = "esa-worldcover"
"""Collection of the true land cover, called and laid out as the Planetary Computer's ESA WorldCover."""
LABEL_ASSET = "map"

_EARTH_SEARCH_KEYS = {
    "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1", "B06": "rededge2", "B07": "rededge3", "B08": "nir",
    "B8A": "nir08", "B11": "swir16", "B12": "swir22", "SCL": "scl",
}  # fmt: skip
# Planetary Computer names B05, B06, B07 and B8A alike.
_COMMON_NAMES = {
    "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge", "B06": "rededge", "B07": "rededge", "B08": "nir",
    "B8A": "rededge", "B11": "swir16", "B12": "swir22",
}  # fmt: skip
_SCHEMAS = "https://stac-extensions.github.io"


def asset_key(style: Style, band: str) -> str:
    """What the provider calls the file of a band (or ``"SCL"``)."""
    return _EARTH_SEARCH_KEYS[band] if style == "earth-search" else band


def item_id(style: Style, granule: Granule, acquisition: Acquisition) -> str:
    """The provider's naming scheme."""
    when = acquisition.datetime
    if style == "earth-search":
        return f"{acquisition.satellite}_{granule.tile}_{when:%Y%m%d}_0_L2A"
    stamp = f"{when:%Y%m%dT%H%M%S}"
    return f"{acquisition.satellite}_MSIL2A_{stamp}_R{acquisition.orbit:03d}_T{granule.tile}_{stamp}"


def footprint(frame: Frame) -> shapely.Polygon:
    """Outline of a frame, lon/lat, with points along its sides so that it follows the curved UTM edges."""
    size = 10 * frame.width, 10 * frame.height
    outline = shapely.box(frame.left, frame.top - size[1], frame.left + size[0], frame.top)
    outline = shapely.segmentize(shapely.orient_polygons(outline), max(size) / 4)
    to_lonlat = Transformer.from_crs(frame.epsg, 4326, always_xy=True)
    return shapely.transform(outline, lambda x, y: to_lonlat.transform(x, y), interleaved=False)


def stac_item(
    style: Style,
    projection: Projection,
    granule: Granule,
    acquisition: Acquisition,
    hrefs: Mapping[str, str],
    *,
    offset_applied: bool,
    cloud_cover: float,
    nodata_share: float,
) -> dict[str, Any]:
    """One item as plain data.

    Args:
        style: Whose conventions.
        projection: ``"1"``: ``proj:epsg`` and STAC 1.0; ``"2"``: ``proj:code`` and STAC 1.1.
        granule: Where.
        acquisition: When.
        hrefs: Band name (and ``"SCL"``) → href of its file.
        offset_applied: The files already had the offset of 1000 taken away (Earth Search only says so).
        cloud_cover: Percent of valid pixels.
        nodata_share: Percent of the granule outside the swath.
    """
    frame, tile = granule.frame, granule.tile
    outline = footprint(frame)
    properties: dict[str, Any] = {
        "datetime": acquisition.datetime.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "created": acquisition.datetime.strftime("%Y-%m-%dT23:59:00Z"),
        "platform": f"sentinel-2{acquisition.satellite[-1].lower()}",
        "constellation": "sentinel-2",
        "instruments": ["msi"],
        "gsd": 10,
        "eo:cloud_cover": round(cloud_cover, 4),
        "s2:processing_baseline": acquisition.baseline,
        "s2:nodata_pixel_percentage": round(nodata_share, 4),
        "s2:mgrs_tile": tile,
        "grid:code": f"MGRS-{tile}",
        "mgrs:utm_zone": int(tile[:2]),
        "mgrs:latitude_band": tile[2],
        "mgrs:grid_square": tile[3:],
        **({"proj:epsg": frame.epsg} if projection == "1" else {"proj:code": f"EPSG:{frame.epsg}"}),
    }
    if style == "earth-search":
        properties["earthsearch:boa_offset_applied"] = offset_applied
    extensions = [
        f"{_SCHEMAS}/eo/v1.1.0/schema.json",
        f"{_SCHEMAS}/grid/v1.1.0/schema.json",
        f"{_SCHEMAS}/mgrs/v1.0.0/schema.json",
        f"{_SCHEMAS}/projection/{'v1.1.0' if projection == '1' else 'v2.0.0'}/schema.json",
        *([f"{_SCHEMAS}/raster/v1.1.0/schema.json"] if style == "earth-search" else []),
    ]
    in_files = OFFSET_DN if acquisition.has_offset and not offset_applied else 0
    return {
        "type": "Feature",
        "stac_version": "1.0.0" if projection == "1" else "1.1.0",
        "stac_extensions": extensions,
        "id": item_id(style, granule, acquisition),
        "collection": COLLECTION,
        "bbox": [round(v, 7) for v in outline.bounds],
        "geometry": json.loads(shapely.to_geojson(shapely.set_precision(outline, 1e-7))),
        "properties": properties,
        "assets": {asset_key(style, name): _asset(style, name, href, frame, in_files) for name, href in hrefs.items()},
        "links": [],
    }


def _asset(style: Style, name: str, href: str, frame: Frame, in_files: int) -> dict[str, Any]:
    gsd = SCL_GSD_M if name == "SCL" else next(band.gsd_m for band in BANDS if band.name == name)
    asset: dict[str, Any] = {
        "href": href,
        "type": "image/tiff; application=geotiff; profile=cloud-optimized",
        "title": "Scene classification map (SCL)" if name == "SCL" else f"{name} - {gsd}m",
        "roles": ["data"] if name == "SCL" else ["data", "reflectance"],
        "gsd": gsd,
        "proj:shape": [frame.height * 10 // gsd, frame.width * 10 // gsd],
        "proj:transform": [gsd, 0, frame.left, 0, -gsd, frame.top],
    }
    if name != "SCL":
        band = next(b for b in BANDS if b.name == name)
        asset["eo:bands"] = [
            {
                "name": name if style == "planetary-computer" else _EARTH_SEARCH_KEYS[name],
                "common_name": _COMMON_NAMES[name],
                "center_wavelength": round(band.wavelength_nm / 1000.0, 4),
            }
        ]
    if style == "earth-search":
        asset["raster:bands"] = [
            {"nodata": 0, "data_type": "uint8" if name == "SCL" else "uint16", "spatial_resolution": gsd}
            | ({} if name == "SCL" else {"scale": 1 / QUANTIFICATION, "offset": float(-in_files / QUANTIFICATION)})
        ]
    return asset


def label_item(projection: Projection, granule: Granule, year: int, href: str, legend: Legend) -> dict[str, Any]:
    """The true land cover of one granule, as the Planetary Computer describes a tile of ESA WorldCover.

    Args:
        projection: See :func:`stac_item`.
        granule: Where.
        year: The map is of this year; like WorldCover's, the item has a start and an end but no ``datetime``.
        href: Of the class map.
        legend: Its codes.
    """
    frame = granule.frame
    outline = footprint(frame)
    return {
        "type": "Feature",
        "stac_version": "1.0.0" if projection == "1" else "1.1.0",
        "stac_extensions": [
            f"{_SCHEMAS}/classification/v1.1.0/schema.json",
            f"{_SCHEMAS}/projection/{'v1.1.0' if projection == '1' else 'v2.0.0'}/schema.json",
        ],
        "id": f"simulated_WorldCover_10m_{year}_{granule.tile}",
        "collection": LABEL_COLLECTION,
        "bbox": [round(v, 7) for v in outline.bounds],
        "geometry": json.loads(shapely.to_geojson(shapely.set_precision(outline, 1e-7))),
        "properties": {
            "datetime": None,
            "start_datetime": f"{year}-01-01T00:00:00Z",
            "end_datetime": f"{year}-12-31T23:59:59Z",
            "license": "Apache-2.0",
            **({"proj:epsg": frame.epsg} if projection == "1" else {"proj:code": f"EPSG:{frame.epsg}"}),
        },
        "assets": {
            LABEL_ASSET: {
                "href": href,
                "type": "image/tiff; application=geotiff; profile=cloud-optimized",
                "title": "Land cover classes",
                "roles": ["data"],
                "proj:shape": [frame.height, frame.width],
                "proj:transform": [10, 0, frame.left, 0, -10, frame.top],
                "classification:classes": [
                    {"value": c.code, "name": c.name.lower().replace(" ", "-"), "description": c.name,
                     "color_hint": c.color[1:].upper()}
                    for c in legend
                ],
            }
        },
        "links": [],
    }  # fmt: skip


def collection(
    items: list[dict[str, Any]],
    description: str,
    identifier: str = COLLECTION,
    title: str = "Simulated Sentinel-2 Level-2A",
) -> dict[str, Any]:
    """The STAC collection over the items, without links."""
    boxes = np.asarray([item["bbox"] for item in items])
    properties = [item["properties"] for item in items]
    first = min(p["datetime"] or p["start_datetime"] for p in properties)
    last = max(p["datetime"] or p["end_datetime"] for p in properties)
    extent = [*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()]
    return {
        "type": "Collection",
        "stac_version": items[0]["stac_version"],
        "stac_extensions": [],
        "id": identifier,
        "title": title,
        "description": description,
        "license": "Apache-2.0",
        "extent": {"spatial": {"bbox": [extent]}, "temporal": {"interval": [[first, last]]}},
        "links": [],
    }
