"""Polygons of a GeoPackage or GeoJSON file, in any coordinate system asked for.

GeoPackage is SQLite with one table per layer; a geometry is a short header and then WKB (OGC 12-128r19, 2.1.3).
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from shapely.geometry.base import BaseGeometry

from pipeline.errors import ChipError

_ENVELOPE_BYTES = {0: 0, 1: 32, 2: 48, 3: 48, 4: 64}
_AREAS = ("Polygon", "MultiPolygon")


def read_polygons(
    path: Path, crs: Any, *, may_be_empty: bool = False, where: tuple[str, str] | None = None
) -> list[BaseGeometry]:
    """Polygons of a file; points and lines are left out.

    Args:
        path: ``.gpkg`` (all its layers), ``.geojson`` or ``.json``.
        crs: Coordinate system of the answer, whatever pyproj takes.
        may_be_empty: Whether a file without any polygon is no error (a chip without a building, say).
        where: Column and value that features of a GeoPackage must have.

    Raises:
        ChipError: Unreadable, of another format, or without any polygon.
    """
    try:
        if path.suffix.lower() == ".gpkg":
            layers = _geopackage(path, where)
        elif path.suffix.lower() in (".geojson", ".json"):
            layers = [_geojson(path)]
        else:
            raise ChipError(f"{path}: label polygons must be a GeoPackage (.gpkg) or GeoJSON (.geojson)")
        found = [shape for system, shapes in layers for shape in _projected(shapes, system, CRS.from_user_input(crs))]
    except (OSError, ValueError, KeyError, TypeError, sqlite3.Error, shapely.errors.ShapelyError, ProjError) as error:
        raise ChipError(f"label polygons {path} cannot be read: {error}") from None
    polygons = [shape for shape in found if shape is not None and shape.geom_type in _AREAS and not shape.is_empty]
    if not polygons and not may_be_empty:
        raise ChipError(f"label polygons {path}: the file holds no polygon")
    return polygons


def _geojson(path: Path) -> tuple[CRS, list[BaseGeometry]]:
    data = json.loads(path.read_text(encoding="utf-8"))
    features = data["features"] if data.get("type") == "FeatureCollection" else [data]
    # RFC 7946 knows longitude and latitude only; files of its 2008 forerunner may name another system.
    name = (data.get("crs") or {}).get("properties", {}).get("name", "OGC:CRS84")
    shapes = [shapely.geometry.shape(f["geometry"]) for f in features if f.get("geometry")]
    return CRS.from_user_input(name), shapes


def _geopackage(path: Path, where: tuple[str, str] | None) -> list[tuple[CRS, list[BaseGeometry]]]:
    layers = []
    with closing(sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True)) as database:
        tables = database.execute(
            "SELECT c.table_name, c.column_name, s.organization, s.organization_coordsys_id, s.definition "
            "FROM gpkg_geometry_columns c JOIN gpkg_spatial_ref_sys s ON s.srs_id = c.srs_id"
        ).fetchall()
        for table, column, organization, code, definition in tables:
            quoted = [name.replace('"', '""') for name in (column, table)]
            query = 'SELECT "{}" FROM "{}"'.format(*quoted)
            values: tuple[str, ...] = ()
            if where is not None:
                query, values = f"""{query} WHERE "{where[0].replace('"', '""')}" = ?""", (where[1],)
            rows = database.execute(query, values).fetchall()
            system = CRS.from_user_input(f"EPSG:{code}" if organization.upper() == "EPSG" else definition)
            layers.append((system, [_geometry(blob) for (blob,) in rows if blob]))
    return layers


def _geometry(blob: bytes) -> BaseGeometry:
    if blob[:2] != b"GP":
        raise ValueError("a geometry does not start with 'GP'")
    return shapely.from_wkb(blob[8 + _ENVELOPE_BYTES[(blob[3] >> 1) & 7] :])


def _projected(shapes: list[BaseGeometry], source: CRS, target: CRS) -> list[BaseGeometry]:
    if source == target:
        return shapes
    transformer = Transformer.from_crs(source, target, always_xy=True)
    return [shapely.transform(shape, transformer.transform, interleaved=False) for shape in shapes]
