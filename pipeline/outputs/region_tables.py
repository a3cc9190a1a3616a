"""Sub-regions as tables: ``regions.csv``, a line per sub-region and class; ``regions.parquet``, a row per sub-region
with its outline and a column per class (GeoParquet 1.1, which GDAL, QGIS, DuckDB and GeoPandas open)."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from pyproj import CRS

from pipeline.explain.statistics import RegionStatistics
from pipeline.machine.atomic_files import renew_bytes
from spex_core.legend import Legend

_COLUMNS = (
    "item", "start", "end", "region", "name", "area_ha", "observed_share", "code", "class", "class_area_ha", "share",
    "patches", "largest_patch_ha", "mean_confidence", "unfamiliar_share",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_regions_csv(path: Path, regions: Sequence[RegionStatistics], item: str, start: str, end: str) -> Path:
    """Writes the long table, UTF-8, areas in hectares, shares 0..1; a sub-region without a class has one line.

    ``unfamiliar_share`` is that of the line's class; empty where the model does not know what it was trained on.

    Raises:
        OutputError: The folder cannot be written.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(_COLUMNS)
    for region in regions:
        whole = (item, start, end, _cell(region.id), _cell(region.name), f"{region.area_ha:.4f}")
        observed = f"{region.observed_share:.6f}"
        if not region.classes:
            rows.writerow((*whole, observed, *[""] * 7, _known(region.unfamiliar_share)))
        for c in region.classes:
            measured = (f"{c.area_ha:.4f}", f"{c.share:.6f}", c.patches, f"{c.largest_patch_ha:.4f}")
            quality = (f"{c.mean_confidence:.6f}", _known(c.unfamiliar_share))
            rows.writerow((*whole, observed, c.code, _cell(c.name), *measured, *quality))
    renew_bytes(path, text.getvalue().encode())
    return path


def write_regions_parquet(
    path: Path, regions: Sequence[RegionStatistics], legend: Legend, item: str, start: str, end: str
) -> Path:
    """Writes the wide table: outline in lon/lat, ``<class>_ha`` (hectares; 0 where a class does not occur).

    Raises:
        OutputError: The folder cannot be written.
    """
    shapes = [shapely.geometry.shape(region.geometry) for region in regions]
    columns: dict[str, Any] = {
        "region": pa.array([region.id for region in regions], pa.string()),
        "name": pa.array([region.name for region in regions], pa.string()),
        "item": pa.array([item] * len(regions), pa.string()),
        "start": pa.array([start] * len(regions), pa.string()),
        "end": pa.array([end] * len(regions), pa.string()),
        "area_ha": _numbers([round(region.area_ha, 4) for region in regions]),
        "observed_share": _numbers([round(region.observed_share, 6) for region in regions]),
        "mean_confidence": _numbers([round(region.mean_confidence, 6) for region in regions]),
        "unfamiliar_share": pa.array(
            [None if (share := region.unfamiliar_share) is None else round(share, 6) for region in regions],
            pa.float64(),
        ),
    }
    for c, name in zip(legend, class_columns(legend), strict=True):
        areas = [next((k.area_ha for k in region.classes if k.code == c.code), 0.0) for region in regions]
        columns[name] = _numbers([round(area, 4) for area in areas])
    write_geoparquet(path, columns, shapes, "EPSG:4326")
    return path


def class_columns(legend: Legend) -> list[str]:
    """Name of each class's column: ``trees_ha``; with the code where two names come to the same."""
    plain = [re.sub(r"\W+", "_", c.name.lower()).strip("_") or "class" for c in legend]
    return [f"{n}_ha" if plain.count(n) == 1 else f"{n}_{c.code}_ha" for n, c in zip(plain, legend, strict=True)]


def write_geoparquet(path: Path, columns: dict[str, Any], shapes: Sequence[shapely.Geometry], crs: str) -> None:
    """Writes a GeoParquet file, atomically; the same rows give the same bytes.

    Args:
        path: The file.
        columns: Name → Arrow array.
        shapes: One geometry per row.
        crs: Of the geometries.

    Raises:
        OutputError: The folder cannot be written.
    """
    bounds = [float(v) for v in shapely.total_bounds(shapes)] if len(shapes) else []
    column: dict[str, Any] = {"encoding": "WKB", "geometry_types": sorted({_kind(shape) for shape in shapes})}
    if bounds and all(v == v for v in bounds):
        column["bbox"] = bounds
    if crs != "EPSG:4326":  # without one the format means longitude and latitude
        column["crs"] = json.loads(CRS.from_user_input(crs).to_json())
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    table = pa.table({**columns, "geometry": pa.array(shapely.to_wkb(list(shapes)), pa.binary())})
    table = table.replace_schema_metadata({"geo": json.dumps(geo, sort_keys=True)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    renew_bytes(path, sink.getvalue().to_pybytes())


def _kind(shape: shapely.Geometry) -> str:
    return str(shape.geom_type)


def _numbers(values: Sequence[float]) -> Any:
    return pa.array(values, pa.float64())


def _known(share: float | None) -> str:
    return "" if share is None else f"{share:.6f}"


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 6)


def _cell(text: str) -> str:
    """Spreadsheets compute what begins like a formula; names come from outside."""
    plain = " ".join(text.split())
    return f"'{plain}" if plain.startswith(_FORMULA) else plain
