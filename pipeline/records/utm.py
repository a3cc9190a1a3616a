"""UTM zones as the military grid (MGRS), and with it the grid of Sentinel-2, divides the world.

Strips of six degrees, but for south-west Norway (32V is wider, 31V narrower) and Svalbard (31X, 33X, 35X and 37X only).
Source: NGA.STND.0037, Universal Grids and Grid Reference Systems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import shapely
from shapely.geometry.base import BaseGeometry

SOUTH, NORTH = -80.0, 84.0
"""Latitudes that UTM covers, degrees."""
FALSE_NORTHING_M = 10_000_000.0
"""Northing of the equator in the southern zones (327xx); it is 0 in the northern ones (326xx)."""

MOVED = (
    (31, (3.0, 56.0, 6.0, 64.0), 32),
    (32, (6.0, 72.0, 9.0, 84.0), 31),
    (32, (9.0, 72.0, 12.0, 84.0), 33),
    (34, (18.0, 72.0, 21.0, 84.0), 33),
    (34, (21.0, 72.0, 24.0, 84.0), 35),
    (36, (30.0, 72.0, 33.0, 84.0), 35),
    (36, (33.0, 72.0, 36.0, 84.0), 37),
)
"""(strip, west-south-east-north in degrees, zone): ground that belongs to another zone than its strip."""


@dataclass(frozen=True)
class ZonePart:
    """A piece of ground and the zone that the grid gives it to."""

    zone: int
    """1..60."""
    geometry: BaseGeometry
    """Polygon or MultiPolygon, lon/lat."""


def utm_zone(lon: float) -> int:
    """Number (1..60) of the plain 6° strip that holds a longitude in degrees; +180 belongs to zone 60."""
    return min(int((lon + 180.0) // 6.0) + 1, 60)


def zone_of(epsg: int) -> int | None:
    """Zone number (1..60) of a UTM code of WGS 84, north (326xx) or south (327xx); None for any other code."""
    hemisphere, zone = divmod(epsg, 100)
    return zone if hemisphere in (326, 327) and 1 <= zone <= 60 else None


def northing_shift_m(source: int, target: int) -> float | None:
    """What to add to northings of one code to have those of another that differs from it in nothing else.

    0 for equal codes, the false northing between the two hemispheres of a zone, None for all others.
    """
    if source == target:
        return 0.0
    if zone_of(source) is None or zone_of(source) != zone_of(target):
        return None
    return FALSE_NORTHING_M if target > source else -FALSE_NORTHING_M


def zone_parts(geometry: BaseGeometry) -> tuple[ZonePart, ...]:
    """Cuts ground along the borders of zones: no ground twice, none lost.

    Args:
        geometry: Polygon or MultiPolygon, lon/lat, split at the antimeridian.

    Returns:
        Pieces with an area, each within one strip, in ascending order of strips; a zone may have several.
    """
    strips: set[int] = set()
    for west, _, east, _ in shapely.bounds(shapely.get_parts(geometry)):
        strips.update(range(utm_zone(west), utm_zone(east) + 1))
    found: list[ZonePart] = []
    for strip in sorted(strips):
        west = -180.0 + 6.0 * (strip - 1)
        rest = polygonal(shapely.intersection(geometry, shapely.box(west, -90.0, west + 6.0, 90.0)))
        for moved_strip, bounds, zone in MOVED:
            if moved_strip == strip and rest.intersects(box := shapely.box(*bounds)):
                found.append(ZonePart(zone, polygonal(shapely.intersection(rest, box))))
                rest = polygonal(shapely.difference(rest, box))
        found.append(ZonePart(strip, rest))
    # A region that only touches the border of a zone has no area there and gets no map for it.
    return tuple(part for part in found if not part.geometry.is_empty and part.geometry.area > 0.0)


def epsg_at(zone: int, ground: BaseGeometry) -> int:
    """Code of a zone for a piece of ground in it: north or south by its centroid."""
    return (32600 if ground.centroid.y >= 0.0 else 32700) + zone


def joined_ground(pieces: Sequence[BaseGeometry]) -> BaseGeometry:
    """One or more pieces as one Polygon or MultiPolygon; a single piece unchanged."""
    return pieces[0] if len(pieces) == 1 else polygonal(shapely.union_all(list(pieces)))


def polygonal(geometry: BaseGeometry) -> BaseGeometry:
    """The polygons of a geometry, as Polygon or MultiPolygon (empty if it has none); lines and points are dropped."""
    if geometry.geom_type in ("Polygon", "MultiPolygon"):
        return geometry
    parts = [part for part in shapely.get_parts(geometry) if part.geom_type in ("Polygon", "MultiPolygon")]
    return shapely.union_all(parts) if parts else shapely.Polygon()
