"""The area to map: a file in, a frozen :class:`Region` of checked lon/lat polygons and named sub-regions out.

What format and coordinate system the file has is for :mod:`pipeline.records.region_formats`; every refusal here names
the feature.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from pipeline.errors import RegionError
from pipeline.records import antimeridian, utm
from pipeline.records.region_crs import to_lonlat
from pipeline.records.region_formats import RegionSource, read_source
from pipeline.records.region_geometry import is_empty, plain_geometry
from pipeline.records.region_grid import grid_cells
from pipeline.records.utm import epsg_at, joined_ground, polygonal, zone_parts

ROUNDING_DEGREES = 1e-6
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class SubRegion:
    """One area that gets its own statistics and explanation."""

    id: str
    """Unique in its region; only ``[A-Za-z0-9._-]``, so it may name a file."""
    name: str
    """Plain text for people; not escaped."""
    geometry: BaseGeometry
    """Polygon or MultiPolygon, lon/lat."""


@dataclass(frozen=True)
class Region:
    """Everything to map, and its cut into sub-regions."""

    geometry: BaseGeometry
    """Union of all features: Polygon or MultiPolygon, lon/lat."""
    subregions: tuple[SubRegion, ...]
    notes: tuple[str, ...] = ()
    """What had to be mended while reading (invalid rings, unsafe ids)."""

    def utm_epsgs(self) -> tuple[int, ...]:
        """EPSG codes of the UTM zones touched, ascending.

        Zones are those of the MGRS grid, Norway and Svalbard included. A zone is one even where the region straddles
        the equator: north or south is decided by the centroid of the part inside the zone.
        """
        return tuple(sorted(self._zones()))

    def zone_geometry(self, epsg: int) -> BaseGeometry:
        """The part of the region inside the zone of ``epsg``, lon/lat. The zones partition the region.

        Raises:
            RegionError: ``epsg`` is not one of :meth:`utm_epsgs`.
        """
        zones = self._zones()
        if epsg not in zones:
            raise RegionError(f"the region does not touch EPSG:{epsg}; it touches {list(self.utm_epsgs())}")
        return zones[epsg]

    def _zones(self) -> dict[int, BaseGeometry]:
        pieces: dict[int, list[BaseGeometry]] = {}
        for part in zone_parts(self.geometry):
            pieces.setdefault(part.zone, []).append(part.geometry)
        joined = {zone: joined_ground(parts) for zone, parts in pieces.items()}
        return {epsg_at(zone, ground): ground for zone, ground in joined.items()}


def read_region(
    path: str | Path,
    *,
    id_field: str = "id",
    name_field: str = "name",
    grid_km: float = 5.0,
    max_regions: int = 10_000,
    layer: str | None = None,
    where: str | None = None,
) -> Region:
    """Reads polygons of GeoJSON, GeoPackage, Shapefile, KML, FlatGeobuf or GeoParquet, of any coordinate system.

    Features without a geometry are left out with a note. Several features become the sub-regions. A single one is cut
    into an automatic grid of ``grid_km`` cells, named ``Cell A1`` from the north-west corner (letters go east, numbers
    go south).

    Raises:
        RegionError: Unreadable, another format, no such layer, coordinates of an unknown system, empty, not polygons,
            outside UTM, an id used twice, or more than ``max_regions`` sub-regions.
        InstallationError: What reads the format is not installed.
    """
    path = Path(path)
    source = read_source(path, layer=layer, where=where, fields=(id_field, name_field), most=max_regions)
    notes = list(source.notes)
    features = _with_geometry(source, name_field, path, notes)
    geometries = [_checked_geometry(f["geometry"], _label(f, i, name_field), source, path, notes) for i, f in features]
    # One form for one area, so that nothing made from it depends on where a ring starts or which way it runs.
    union = shapely.normalize(shapely.remove_repeated_points(polygonal(shapely.union_all(geometries))))
    if len(features) == 1:
        cells = grid_cells(union, Region(union, ()).utm_epsgs(), grid_km, max_regions, path)
        subregions = tuple(SubRegion(f"cell-{name}", f"Cell {name}", part) for name, part in cells)
    else:
        if len(features) > max_regions:
            raise RegionError(
                f"{path} has more than {max_regions} features; at most {max_regions} become sub-regions "
                "(regions.max_regions), and regions.where chooses some of them"
            )
        subregions = _named(features, geometries, id_field, name_field, path, notes)
    return Region(union, subregions, tuple(notes))


def _properties(feature: dict[str, Any]) -> dict[str, Any]:
    properties = feature.get("properties")
    return properties if isinstance(properties, dict) else {}


def _label(feature: dict[str, Any], index: int, name_field: str) -> str:
    name = _properties(feature).get(name_field, feature.get("id"))
    return f"feature {index + 1}" + (f" ({str(name)[:60]!r})" if name is not None else "")


def _with_geometry(
    source: RegionSource, name_field: str, path: Path, notes: list[str]
) -> list[tuple[int, dict[str, Any]]]:
    """Features that have one: RFC 7946 allows null, and databases export it for what was not surveyed."""
    there = [(i, f) for i, f in source.features if not is_empty(f.get("geometry"))]
    missing = [_label(f, i, name_field) for i, f in source.features if is_empty(f.get("geometry"))]
    if not there:
        raise RegionError(
            f"{missing[0]} of {path} has no geometry, and no other feature has one: there is nothing to map"
        )
    if missing:
        some = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        notes.append(f"left out, without a geometry: {some}")
    return there


def _leaves(geometry: BaseGeometry) -> list[BaseGeometry]:
    """The parts of a collection that are none themselves."""
    if geometry.geom_type != "GeometryCollection":
        return [geometry]
    return [leaf for part in shapely.get_parts(geometry) for leaf in _leaves(part)]


def _polygons(data: Any, label: str, path: Path, notes: list[str]) -> BaseGeometry:
    """A geometry as Polygon or MultiPolygon, in the coordinates of its file."""
    if not isinstance(data, dict | BaseGeometry):
        raise RegionError(f"{label} of {path} has no geometry")
    kind = data.get("type") if isinstance(data, dict) else data.geom_type
    if kind not in ("Polygon", "MultiPolygon", "GeometryCollection"):
        raise RegionError(
            f"{label} of {path} is a {kind}; an area to map must be a Polygon or MultiPolygon (regions.where can leave "
            "others out)"
        )
    try:
        geometry = shapely.force_2d(shape(plain_geometry(data)) if isinstance(data, dict) else data)
    except Exception as error:  # shapely raises many kinds for malformed coordinate lists
        raise RegionError(f"{label} of {path} has malformed coordinates: {error}") from error
    if kind == "GeometryCollection":  # of KML: a polygon, and the point of its label
        parts = _leaves(geometry)
        geometry = polygonal(shapely.GeometryCollection(parts))
        if geometry.is_empty:
            raise RegionError(f"{label} of {path} is a GeometryCollection without a polygon")
        if any("Polygon" not in part.geom_type for part in parts):
            notes.append(f"{label}: its points and lines are left out")
    return geometry


def _within_rounding(geometry: BaseGeometry) -> BaseGeometry:
    """Longitudes and latitudes that leave the Earth by less than a tenth of a metre are at its edge."""
    edge = np.array([180.0, 90.0])

    def at_edge(xy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        over = np.abs(xy) - edge
        return np.where((over > 0) & (over < ROUNDING_DEGREES), np.sign(xy) * edge, xy)

    return shapely.transform(geometry, at_edge)


def _checked_geometry(data: Any, label: str, source: RegionSource, path: Path, notes: list[str]) -> BaseGeometry:
    geometry = _polygons(data, label, path, notes)
    if geometry.is_empty:
        raise RegionError(f"{label} of {path} is empty")
    xy = shapely.get_coordinates(geometry)
    if not np.isfinite(xy).all():
        raise RegionError(f"{label} of {path} has coordinates that are not finite numbers")
    if source.crs is not None:
        geometry = to_lonlat(geometry, source.crs, f"{label} of {path}")
        xy = shapely.get_coordinates(geometry)
    geometry = _within_rounding(geometry)
    xy = shapely.get_coordinates(geometry)
    if source.crs is None and source.named and antimeridian.beyond(geometry):
        geometry = antimeridian.split(geometry)
        xy = shapely.get_coordinates(geometry)
        notes.append(f"{label} has longitudes beyond 180°; it was split at the antimeridian")
    if (np.abs(xy[:, 0]) > 180.0).any() or (np.abs(xy[:, 1]) > 90.0).any():
        worst = xy[np.argmax(np.maximum(np.abs(xy[:, 0]) / 180.0, np.abs(xy[:, 1]) / 90.0))]
        if np.abs(xy[:, 0]).max() <= 90.0 and np.abs(xy[:, 1]).max() <= 180.0:
            raise RegionError(
                f"{label} of {path} has the coordinate ({worst[0]:g}, {worst[1]:g}): latitude and longitude seem to be "
                "swapped; the longitude comes first (RFC 7946, section 3.1.1)"
            )
        unknown = "" if source.named else "; the file does not say in which coordinate system it is (a missing .prj?)"
        raise RegionError(
            f"{label} of {path} has the coordinate ({worst[0]:g}, {worst[1]:g}), not a longitude and latitude"
            f"{unknown} (projected metres? convert to EPSG:4326: ogr2ogr -s_srs EPSG:... -t_srs EPSG:4326 out.geojson "
            f"{path.name}; beyond 180°? split at the antimeridian, RFC 7946 section 3.1.9)"
        )
    for west, south, east, north in shapely.bounds(shapely.get_parts(geometry)):
        if east - west > 180.0:
            raise RegionError(
                f"{label} of {path} has a polygon {east - west:.0f}° wide; if it crosses the antimeridian, split it "
                "there into a MultiPolygon (RFC 7946 section 3.1.9)"
            )
        if south < utm.SOUTH or north > utm.NORTH:
            raise RegionError(f"{label} of {path} leaves the latitudes of UTM ({utm.SOUTH:g}° to {utm.NORTH:g}°)")
    if not geometry.is_valid:
        reason = shapely.is_valid_reason(geometry)
        geometry = polygonal(shapely.make_valid(geometry))
        notes.append(f"{label} was not a valid polygon ({reason}); it was repaired")
    if geometry.is_empty or geometry.area <= 0.0:
        raise RegionError(f"{label} of {path} has no area")
    return geometry


def _plain_text(value: Any, limit: int = 200) -> str:
    text = "".join(" " if unicodedata.category(c).startswith("C") else c for c in str(value))
    return " ".join(text.split())[:limit]


def safe_id(value: Any) -> str:
    """``value`` as at most 100 of ``[A-Za-z0-9._-]``, no dot or dash at its ends; may be empty."""
    ascii_text = unicodedata.normalize("NFKD", str(value)).encode("ascii", "ignore").decode("ascii")
    return _UNSAFE.sub("-", ascii_text)[:100].strip("-.")


def _named(
    features: Sequence[tuple[int, dict[str, Any]]],
    geometries: Sequence[BaseGeometry],
    id_field: str,
    name_field: str,
    path: Path,
    notes: list[str],
) -> tuple[SubRegion, ...]:
    seen: dict[str, int] = {}
    taken: set[str] = set()
    out: list[SubRegion] = []
    for (index, feature), geometry in zip(features, geometries, strict=True):
        raw = _properties(feature).get(id_field, feature.get("id"))
        if raw is None or not str(raw).strip():
            raw = f"region-{index + 1}"
        raw = str(raw)
        if raw in seen:
            raise RegionError(
                f"features {seen[raw] + 1} and {index + 1} of {path} share the id {raw[:60]!r}; "
                "make it unique or point regions.id_field at another property"
            )
        seen[raw] = index
        identifier = safe_id(raw) or f"region-{index + 1}"
        # Case is ignored: two ids must not fall on one file where file names ignore case.
        base, count = identifier, 2
        while identifier.casefold() in taken:
            identifier, count = f"{base}-{count}", count + 1
        taken.add(identifier.casefold())
        if identifier != raw:
            notes.append(f"feature {index + 1}: id {raw[:60]!r} became {identifier!r}")
        name = _plain_text(_properties(feature).get(name_field) or "") or _plain_text(raw) or identifier
        out.append(SubRegion(identifier, name, geometry))
    return tuple(out)
