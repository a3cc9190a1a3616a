"""GeoParquet region files, through pyarrow where it is installed: the GDAL of pyogrio's wheel cannot read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyproj
import shapely
from pyproj.exceptions import ProjError

from pipeline.errors import InstallationError, RegionError
from pipeline.records.region_crs import checked

MAX_ROWS = 1_000_000


def read_parquet(
    path: Path, *, fields: Sequence[str], all_fields: bool, told: str
) -> tuple[list[dict[str, Any]], pyproj.CRS | None, bool]:
    """Reads the primary geometry column and the wanted fields.

    Args:
        path: The file.
        fields: Properties that are wanted.
        all_fields: Whether the others are read too, for a condition.
        told: What messages call the file.

    Returns:
        As :func:`pipeline.records.region_vectors.read_vectors`.

    Raises:
        RegionError: Unreadable, or no GeoParquet with WKB.
        InstallationError: pyarrow is missing.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise InstallationError(
            f"{told} is GeoParquet, which needs pyarrow: pip install -c constraints.txt pyarrow, or "
            "ogr2ogr out.gpkg in.parquet"
        ) from error
    try:
        file = parquet.ParquetFile(path)
        geo = json.loads((file.schema_arrow.metadata or {}).get(b"geo", b"null"))
        rows, names = file.metadata.num_rows, list(file.schema_arrow.names)
    except Exception as error:  # pyarrow has kinds of its own, and the metadata is from outside
        raise RegionError(f"{told} cannot be read: {error}") from None
    column = geo.get("primary_column") if isinstance(geo, dict) else None
    columns = geo.get("columns") if isinstance(geo, dict) else None
    described = columns.get(column) if isinstance(columns, dict) and isinstance(column, str) else None
    if not isinstance(described, dict) or column not in names:
        raise RegionError(f"{told} is Parquet without the 'geo' metadata of GeoParquet: convert it to GeoPackage")
    if described.get("encoding") != "WKB":
        raise RegionError(f"{told} encodes geometries as {described.get('encoding')!r}; only WKB is read: convert it")
    if rows > MAX_ROWS:
        raise RegionError(f"{told} has {rows} rows; at most {MAX_ROWS}")
    wanted = names if all_fields else [name for name in names if name in fields or name == column]
    try:
        table = file.read(columns=wanted).to_pylist()
        features = [
            {
                "type": "Feature",
                "properties": {name: value for name, value in row.items() if name != column},
                "geometry": None if row[column] is None else shapely.from_wkb(row[column]),
            }
            for row in table
        ]
    except Exception as error:
        raise RegionError(f"{told} cannot be read: {error}") from None
    if "crs" not in described:  # the specification's default
        return features, None, True
    if described["crs"] is None:
        return features, None, False
    try:
        crs = pyproj.CRS.from_json_dict(described["crs"])
    except (ProjError, TypeError, ValueError) as error:
        raise RegionError(f"{told} has a coordinate system that PROJ does not understand: {error}") from error
    return features, checked(crs, told), True
