"""Every file that belongs to an item, in one table: what it is called, what it is, and what its pixels mean.

To publish one more file: a line here, and whatever writes it into the item's folder. Item, collection, checks of what
is in the way and removal follow from the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pipeline.predict.stitch import CONFIDENCE_NODATA
from spex_core.familiarity import UNKNOWN
from spex_core.legend import Legend

JSON_TYPE = "application/json"
GEOJSON_TYPE = "application/geo+json"
COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
PARQUET_TYPE = "application/vnd.apache.parquet"
COUNT_NODATA = 255
"""Of ``valid_count.tif``; 0 is a count: ground of the map that no scene saw."""


@dataclass(frozen=True)
class Pixels:
    """What the bands of a raster mean; all are uint8."""

    description: str
    nodata: int | None = None
    """``None``: the legend's."""
    unit: str | None = None
    bands: tuple[str, ...] = ()
    """Names; default: one band, called as the asset. ``("*",)``: one per class of the legend."""


@dataclass(frozen=True)
class AssetKind:
    """One file of an item."""

    file: str
    """Its name in the item's folder."""
    title: str
    media_type: str
    roles: tuple[str, ...]
    pixels: Pixels | None = None
    """For rasters."""


_DATA, _QUALITY, _TEXT = ("data",), ("data", "metadata"), ("metadata", "explanation")

ASSETS: Mapping[str, AssetKind] = MappingProxyType(
    {
        "landcover": AssetKind("landcover.tif", "Land cover class", COG_TYPE, _DATA, Pixels("class code")),
        "confidence": AssetKind(
            "confidence.tif",
            "Confidence of the class, percent",
            COG_TYPE,
            _QUALITY,
            Pixels("confidence of the class", CONFIDENCE_NODATA, "%"),
        ),
        "valid_count": AssetKind(
            "valid_count.tif",
            "Valid observations per pixel",
            COG_TYPE,
            _QUALITY,
            Pixels("scenes with a valid observation", COUNT_NODATA),
        ),
        "unfamiliar": AssetKind(
            "unfamiliar.tif",
            "How unlike anything the model was trained on, percent",
            COG_TYPE,
            _QUALITY,
            Pixels(
                "percent of the training pixels whose spectra are more like others: 98 and more is unlike anything "
                "that the model was trained on; one value for 2 x 2 pixels",
                UNKNOWN,
                "%",
            ),
        ),
        "truecolor": AssetKind(
            "truecolor.tif",
            "True colour, 8 bit, for the eye",
            COG_TYPE,
            ("visual", "overview"),
            Pixels("for the eye", 0, None, ("red", "green", "blue")),
        ),
        "scores": AssetKind(
            "scores.tif",
            "Score of every class, percent",
            COG_TYPE,
            _QUALITY,
            Pixels("score of the class", CONFIDENCE_NODATA, "%", ("*",)),
        ),
        "explanations": AssetKind("explanations.json", "Statistics and explanation per sub-region", JSON_TYPE, _TEXT),
        "explanations_text": AssetKind(
            "explanations.md", "Explanation per sub-region, to read", "text/markdown", _TEXT
        ),
        "regions": AssetKind("regions.csv", "Areas of the classes per sub-region, table", "text/csv", _DATA),
        "regions_parquet": AssetKind(
            "regions.parquet", "Sub-regions with the areas of their classes, GeoParquet", PARQUET_TYPE, _DATA
        ),
        "polygons": AssetKind("classes.parquet", "Class polygons, GeoParquet", PARQUET_TYPE, _DATA),
        "style": AssetKind("landcover.qml", "Style of the class map for QGIS", "application/xml", ("metadata",)),
        "thumbnail": AssetKind("thumbnail.png", "Thumbnail", "image/png", ("thumbnail", "overview")),
        "report": AssetKind("report.html", "Report page", "text/html", ("metadata", "overview")),
        "plan": AssetKind("plan.json", "What the run decided: settings, scenes, grid", JSON_TYPE, ("metadata",)),
        "provenance": AssetKind(
            "provenance.json", "What the map was made of and by what, with checksums", JSON_TYPE, ("metadata",)
        ),
    }
)
"""Key of the asset → its file; items list them in this order, those that are there."""

ITEM_FILES = (*(kind.file for kind in ASSETS.values()), "landcover.tif.aux.xml")
"""Files in an item's own folder, beside the item."""


def raster_fields(key: str, legend: Legend, resolution_m: float) -> dict[str, Any]:
    """Raster fields of a raster asset; empty for the others."""
    pixels = ASSETS[key].pixels if key in ASSETS else None
    if pixels is None:
        return {}
    names = tuple(c.name for c in legend) if pixels.bands == ("*",) else pixels.bands or (key,)
    bands = [
        {"name": name, "description": pixels.description if len(names) == 1 else f"{pixels.description}: {name}"}
        for name in names
    ]
    fields: dict[str, Any] = {
        "data_type": "uint8",
        "raster:spatial_resolution": resolution_m,
        "raster:sampling": "area",
        "bands": bands,
        "nodata": legend.nodata if pixels.nodata is None else pixels.nodata,
    }
    if pixels.unit is not None:
        fields["unit"] = pixels.unit
    return fields
