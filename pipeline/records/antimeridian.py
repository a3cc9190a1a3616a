"""Ground at the 180th meridian, where longitudes jump: as one piece to measure, as two to search and to publish."""

from __future__ import annotations

import numpy as np
import shapely
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry

from pipeline.records.utm import polygonal

_WORLD = shapely.box(-180.0, -90.0, 180.0, 90.0)
_BEYOND = shapely.box(180.0, -90.0, 540.0, 90.0)


def beyond(geometry: BaseGeometry) -> bool:
    """Whether longitudes go on past the antimeridian, as in -190..-170 or 0..360; each polygon may be 180° wide."""
    west, south, east, north = shapely.bounds(shapely.get_parts(geometry)).T
    return bool(
        (west.min() < -180.0 or east.max() > 180.0)
        and (west.min() >= -360.0 and east.max() <= 360.0)
        and (south.min() >= -90.0 and north.max() <= 90.0)
        and (east - west).max() <= 180.0
    )


def split(geometry: BaseGeometry) -> BaseGeometry:
    """Ground of a few degrees as polygons that all lie within -180..180 (RFC 7946, section 3.1.9).

    A polygon that seems more than 180° wide has its far side beyond the antimeridian; longitudes may exceed 180.
    """
    parts: list[BaseGeometry] = []
    for part in shapely.get_parts(geometry):
        west, _, east, _ = part.bounds
        if east - west > 180.0:
            part = shapely.make_valid(
                shapely.transform(part, lambda x, y: (np.where(x < 0.0, x + 360.0, x), y), interleaved=False)
            )
        elif west < -180.0:
            part = translate(part, 360.0)
        if part.bounds[2] > 180.0:
            part = shapely.make_valid(part)
        far = shapely.intersection(part, _BEYOND)
        if not far.is_empty and far.area > 0.0:
            parts.append(translate(far, -360.0))
            part = shapely.intersection(part, _WORLD)
        parts.append(part)
    return polygonal(shapely.union_all(parts))


def unwrapped(geometry: BaseGeometry) -> BaseGeometry:
    """Ground split at the antimeridian as one piece, with longitudes up to 360; any other ground unchanged."""
    west, _, east, _ = geometry.bounds
    if east - west <= 180.0:
        return geometry
    parts = [translate(p, 360.0) if p.bounds[2] < 0.0 else p for p in shapely.get_parts(geometry)]
    return polygonal(shapely.union_all(parts))


def wrapped(geometry: BaseGeometry) -> BaseGeometry:
    """Inverse of :func:`unwrapped`."""
    if geometry.bounds[2] <= 180.0:
        return geometry
    beyond = translate(shapely.intersection(geometry, _BEYOND), -360.0)
    within = shapely.intersection(geometry, _WORLD)
    return polygonal(shapely.GeometryCollection([polygonal(within), polygonal(beyond)]))
