"""A GeoJSON geometry as people write it, as the one that shapely takes: positions of two numbers, no empty parts."""

from __future__ import annotations

from typing import Any

from shapely.geometry.base import BaseGeometry

_RING_DEPTH = {"Polygon": 1, "MultiPolygon": 2}


def is_empty(geometry: Any) -> bool:
    """Whether a feature's geometry is null, or one without coordinates: RFC 7946 lets both mean the same."""
    if geometry is None:
        return True
    if isinstance(geometry, BaseGeometry):
        return bool(geometry.is_empty)
    if not isinstance(geometry, dict):
        return False
    return any(geometry.get(member) == [] for member in ("coordinates", "geometries"))


def plain_geometry(geometry: dict[str, Any]) -> dict[str, Any]:
    """Polygons without heights, measures and empty parts, which may stand at some positions and be null.

    Raises:
        ValueError: A polygon in which a position is none.
    """
    depth = _RING_DEPTH.get(str(geometry.get("type")))
    if geometry.get("type") == "GeometryCollection" and isinstance(geometry.get("geometries"), list):
        inner = [
            plain_geometry(part) for part in geometry["geometries"] if isinstance(part, dict) and not is_empty(part)
        ]
        return {"type": "GeometryCollection", "geometries": inner}
    if depth is None:
        return geometry
    return {"type": geometry["type"], "coordinates": _flat(geometry.get("coordinates"), depth)}


def _flat(coordinates: Any, depth: int) -> list[Any]:
    if not isinstance(coordinates, list):
        raise ValueError(f"{str(coordinates)[:40]!r} stands where a list of positions is due")
    if depth > 0:
        return [_flat(part, depth - 1) for part in coordinates if part != []]
    for position in coordinates:
        if not isinstance(position, list) or len(position) < 2:
            raise ValueError(f"{str(position)[:40]!r} is not a position, a longitude and a latitude")
    return [position[:2] for position in coordinates]
