"""Which UTM zone maps which ground: that of the grid, unless the scenes that cover the ground lie in another one.

Pixels of a scene are copied into a map of its own zone and resampled into any other. So ground goes to the zone of the
scenes that cover most of it; where they tell nothing else, the zone is that of the MGRS grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import shapely
from shapely.geometry.base import BaseGeometry

from pipeline.planning.footprints import footprint
from pipeline.records.region import Region
from pipeline.records.scene import Scene
from pipeline.records.utm import ZonePart, epsg_at, joined_ground, zone_of, zone_parts

OWN_SHARE = 0.5
"""Ground stays with its zone while the zone's own scenes cover at least this share of what any scene covers of it."""
REACH = 2
"""Zones away from its own that ground may go: a granule never lies farther, Svalbard's wide zones included."""


def zone_areas(region: Region, scenes: Iterable[Scene]) -> dict[int, BaseGeometry]:
    """Divides a region among UTM zones: no ground twice, none lost.

    The region is cut along the borders of the MGRS grid, and each piece goes to one zone as a whole, so that maps have
    the same borders whatever the outlines of the scenes are. A zone is one on both sides of the equator: north or south
    by its centroid, unless all scenes there are of the other hemisphere.

    Args:
        region: What is mapped.
        scenes: What it is mapped from, in any order.

    Returns:
        EPSG code → ground, lon/lat, in ascending order of the codes.

    Raises:
        CatalogError: A scene's footprint is not a geometry.
    """
    in_utm = [(zone, scene) for scene in scenes if (zone := zone_of(scene.epsg)) is not None]
    pieces: dict[int, list[BaseGeometry]] = {}
    for part in zone_parts(region.geometry):
        pieces.setdefault(_zone_for(part, in_utm), []).append(part.geometry)
    areas = {}
    for zone, parts in pieces.items():
        ground = joined_ground(parts)
        areas[_hemisphere(zone, ground, in_utm)] = ground
    return dict(sorted(areas.items()))


def _zone_for(part: ZonePart, scenes: Sequence[tuple[int, Scene]]) -> int:
    if all(zone == part.zone for zone, _ in scenes):
        return part.zone
    # Granules repeat: each outline is taken once, and in an order that does not depend on that of the scenes.
    outlines: dict[int, dict[bytes, BaseGeometry]] = {}
    for zone, scene in scenes:
        outline = footprint(scene)
        if _distance(zone, part.zone) <= REACH and outline.intersects(part.geometry):
            outlines.setdefault(zone, {})[shapely.to_wkb(outline)] = outline
    covers = {
        zone: shapely.intersection(shapely.union_all([found[key] for key in sorted(found)]), part.geometry)
        for zone, found in sorted(outlines.items())
    }
    if not covers:
        return part.zone
    covered = shapely.union_all(list(covers.values())).area
    own = covers[part.zone].area if part.zone in covers else 0.0
    best = max(covers, key=lambda zone: (covers[zone].area, -_distance(zone, part.zone), -zone))
    return best if own < OWN_SHARE * covered and covers[best].area > own else part.zone


def _distance(a: int, b: int) -> int:
    """Zones from one to the other, the shorter way round the world."""
    return min((a - b) % 60, (b - a) % 60)


def _hemisphere(zone: int, ground: BaseGeometry, scenes: Sequence[tuple[int, Scene]]) -> int:
    usual = epsg_at(zone, ground)
    found = {scene.epsg for number, scene in scenes if number == zone and footprint(scene).intersects(ground)}
    return found.pop() if len(found) == 1 else usual
