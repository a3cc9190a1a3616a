"""Region files of every format that is read, made from the same two polygons."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio.raw
import pyproj
import shapely
from shapely.geometry import mapping

PARTS = (shapely.box(10.80, 46.40, 10.82, 46.42), shapely.box(10.82, 46.40, 10.84, 46.42))
IDS, NAMES = ("a", "b"), ("Alpha", "Beta")
DRIVERS = {".gpkg": "GPKG", ".shp": "ESRI Shapefile", ".fgb": "FlatGeobuf", ".kml": "LIBKML"}


def projected(geometry: Any, crs: str) -> Any:
    forward = pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True).transform
    return shapely.transform(shapely.segmentize(geometry, 0.002), forward, interleaved=False)


def feature(geometry: Any, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "properties": properties, "geometry": None if geometry is None else mapping(geometry)}


def features(crs: str | None = None) -> list[dict[str, Any]]:
    parts = [part if crs is None else projected(part, crs) for part in PARTS]
    return [feature(part, id=id_, name=name) for part, id_, name in zip(parts, IDS, NAMES, strict=True)]


def vector_file(
    path: Path,
    crs: str | None = "EPSG:4326",
    *,
    geometries: Sequence[Any] = PARTS,
    layer: str | None = None,
    append: bool = False,
    columns: dict[str, Sequence[Any]] | None = None,
) -> Path:
    """A file of the format that its suffix says; coordinates are turned into ``crs`` (None: left, none named)."""
    columns = {"id": IDS, "name": NAMES} if columns is None else columns
    parts = [g if g is None or crs in (None, "EPSG:4326") else projected(g, crs) for g in geometries]
    kinds = {g.geom_type for g in parts if g is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a file without a coordinate system is what some tests want
        pyogrio.raw.write(
            path,
            geometry=np.array([None if g is None else shapely.to_wkb(g) for g in parts], dtype=object),
            field_data=[np.array(values, dtype=object) for values in columns.values()],
            fields=list(columns),
            geometry_type=kinds.pop() if len(kinds) == 1 else "Unknown",
            crs=crs,
            driver=DRIVERS[path.suffix],
            layer=layer,
            append=append,
        )
    return path


def json_file(path: Path, document: Any) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def parquet_file(path: Path, crs: str | None = None, column: dict[str, Any] | None = None) -> Path:
    """GeoParquet 1.0; without ``crs`` the member is left out, which means longitude and latitude."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = [part if crs is None else projected(part, crs) for part in PARTS]
    described: dict[str, Any] = {"encoding": "WKB", "geometry_types": ["Polygon"]}
    if crs is not None:
        described["crs"] = pyproj.CRS(crs).to_json_dict()
    geo = {"version": "1.0.0", "primary_column": "geometry", "columns": {"geometry": described | (column or {})}}
    table = pa.table({"id": list(IDS), "name": list(NAMES), "geometry": [shapely.to_wkb(part) for part in parts]})
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), path)
    return path


def zipped(path: Path, *files: Path, folder: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            archive.write(file, f"{folder}{file.name}")
    return path


def shapefile_zip(path: Path, crs: str = "EPSG:25832", folder: str = "") -> Path:
    inner = path.parent / "inner"
    inner.mkdir()
    vector_file(inner / "areas.shp", crs)
    return zipped(path, *sorted(inner.iterdir()), folder=folder)


def sequence(separator: str, *, pretty: bool = False, first: str = "") -> str:
    return "".join(f"{first}{json.dumps(one, indent=2 if pretty else None)}{separator}" for one in features())


KINDS: dict[str, Callable[[Path], Path]] = {
    "geojson": lambda d: json_file(d / "r.geojson", {"type": "FeatureCollection", "features": features()}),
    "geojson with a byte order mark": lambda d: json_file(
        d / "r.geojson", "\ufeff" + json.dumps({"type": "FeatureCollection", "features": features()})
    ),
    "geojson in UTF-16": lambda d: _bytes(d / "r.json", sequence("\n").encode("utf-16")),
    "newline-delimited": lambda d: json_file(d / "r.geojsonl", sequence("\n")),
    "newline-delimited, CRLF and blank lines": lambda d: json_file(d / "r.ndjson", sequence("\r\n\r\n")),
    "RFC 8142": lambda d: json_file(d / "r.geojsons", sequence("\n", first="\x1e")),
    "RFC 8142, over several lines": lambda d: json_file(d / "r.geojsons", sequence("\n", first="\x1e", pretty=True)),
    "one text after the other": lambda d: json_file(d / "r.geojson", sequence("")),
    "sequence of collections": lambda d: json_file(
        d / "r.geojson", "\n".join(json.dumps({"type": "FeatureCollection", "features": [f]}) for f in features())
    ),
    "geopackage": lambda d: vector_file(d / "r.gpkg"),
    "geopackage, UTM": lambda d: vector_file(d / "r.gpkg", "EPSG:25832"),
    "geopackage under another name": lambda d: vector_file(d / "r.gpkg", "EPSG:3035").rename(d / "region.geojson"),
    "a name that means something to GDAL": lambda d: vector_file(d / "r.gpkg").rename(d / "a!b?c=d.zip"),
    "shapefile": lambda d: vector_file(d / "r.shp", "EPSG:3857"),
    "shapefile, capital fields": lambda d: vector_file(d / "r.shp", columns={"ID": IDS, "NAME": NAMES}),
    "shapefile in a zip": lambda d: shapefile_zip(d / "r.zip"),
    "shapefile in a folder of a zip": lambda d: shapefile_zip(d / "r.zip", folder="a/../../../b/"),
    "geopackage in a zip": lambda d: zipped(d / "r.zip", vector_file(d / "inner.gpkg", "EPSG:2056")),
    "newline-delimited in a zip": lambda d: zipped(d / "r.zip", json_file(d / "i.geojson", sequence("\n"))),
    "flatgeobuf": lambda d: vector_file(d / "r.fgb", "EPSG:25833"),
    "kml": lambda d: vector_file(d / "r.kml"),
    "kmz": lambda d: zipped(d / "r.kmz", vector_file(d / "doc.kml")),
    "geoparquet": lambda d: parquet_file(d / "r.parquet"),
    "geoparquet, UTM": lambda d: parquet_file(d / "r.parquet", "EPSG:32632"),
}
"""What it is → the file, whose region is that of :data:`PARTS`."""


def _bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
