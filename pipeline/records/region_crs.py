"""Coordinate systems of region files: every usual spelling of a name, and the way to longitude and latitude."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pyproj
import shapely
from pyproj.exceptions import ProjError
from shapely.geometry.base import BaseGeometry

from pipeline.errors import RegionError
from pipeline.records import antimeridian

LONLAT = pyproj.CRS.from_authority("OGC", "CRS84")
STEP_M = 2000.0
"""Longest edge of a projected polygon: a straight line of one map is none of another (2 km are bent by centimetres)."""
MAX_STEPS = 20_000
"""Edges that a ring is cut into at most."""
HINT = "convert it, for example: ogr2ogr -t_srs EPSG:4326 out.geojson {name}"

_LONLAT_NAMES = {"crs84", "crs:84", "wgs84", "wgs 84", "wgs_1984", "gcs_wgs_1984", "crs84h", "lonlat", "lon/lat"}
_LONLAT_CODES = {("OGC", "CRS84"), ("OGC", "CRS84H"), ("EPSG", "4326"), ("EPSG", "4979"), ("CRS", "84")}
# EPSG:25832, urn:ogc:def:crs:EPSG:9.8:25832, http://www.opengis.net/def/crs/OGC/1.3/CRS84, .../srs/epsg.xml#25832
_CODE = re.compile(
    r"(?:^|[:/])(?P<authority>EPSG|OGC|CRS|ESRI|IGNF)(?:\.xml)?(?:(?:[:/][\d._]*)?[:/#])(?P<code>[A-Za-z0-9_.]+)/?$",
    re.IGNORECASE,
)
_REGISTRY_NAME = re.compile(r"[A-Za-z0-9 ()._+-]{3,60}( / [A-Za-z0-9 ()._+-]{3,60})?")


def crs_of_member(member: Any, told: str) -> tuple[pyproj.CRS | None, bool]:
    """The system that a GeoJSON ``crs`` member (of 2008) names.

    Args:
        member: Its value, from outside.
        told: What the message calls the file.

    Returns:
        The system, None for longitude and latitude (WGS 84); and whether one is named: null, or a name that is null,
        says that nobody knows.

    Raises:
        RegionError: It names none that is known.
    """
    named: Any = member
    if isinstance(member, dict):
        properties = member.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        named = next((n for n in (properties.get("name"), properties.get("code"), member.get("name")) if n), None)
        if member.get("type") in ("link", "url") or (named is None and "href" in properties):
            raise RegionError(
                f"{told} links to its coordinate system, and no link is followed: name it (EPSG:25832, say)"
            )
    if named is None or named == "":
        return None, False
    if isinstance(named, int) and not isinstance(named, bool):
        named = f"EPSG:{named}"
    if not isinstance(named, str) or not named.strip():
        raise RegionError(f"{told} has a 'crs' that names no coordinate system: remove it, or name one (EPSG:25832)")
    return named_crs(named, told), True


def named_crs(name: str, told: str) -> pyproj.CRS | None:
    """A system by its name, whichever way it is spelt; None is longitude and latitude, WGS 84.

    Raises:
        RegionError: It is not known.
    """
    text = " ".join(name.split())
    if text.isdecimal():
        text = f"EPSG:{text}"
    match = _CODE.search(text)
    last = text.rpartition(":")[2].casefold()
    if text.casefold() in _LONLAT_NAMES or (last in _LONLAT_NAMES and not match):
        return None
    try:
        if match:
            authority, code = match["authority"].upper(), match["code"].upper()
            if (authority, code) in _LONLAT_CODES:
                return None
            return checked(pyproj.CRS.from_authority(authority, code), told)
        if _REGISTRY_NAME.fullmatch(text):
            return checked(pyproj.CRS.from_user_input(text), told)
    except ProjError:
        pass
    raise RegionError(
        f"{told} says its coordinates are in {text[:120]!r}, which is not known here: give an EPSG code, or "
        + HINT.format(name="in.geojson")
    )


def described_crs(text: str, told: str) -> pyproj.CRS | None:
    """A system as GDAL gives it: ``EPSG:25832`` or WKT; None is longitude and latitude, WGS 84.

    Raises:
        RegionError: It cannot be understood, or is none of the earth's surface.
    """
    match = _CODE.search(text) if len(text) < 40 else None
    try:
        crs = pyproj.CRS.from_authority(match["authority"], match["code"]) if match else pyproj.CRS.from_wkt(text)
    except ProjError as error:
        raise RegionError(f"{told} has a coordinate system that PROJ does not understand: {error}") from error
    return checked(crs, told)


def checked(crs: pyproj.CRS, told: str) -> pyproj.CRS | None:
    """A system in which a map can be drawn; None where it is longitude and latitude, WGS 84.

    Raises:
        RegionError: It is a local one, of heights, or of a point in space.
    """
    if crs.is_compound and crs.sub_crs_list:
        crs = crs.sub_crs_list[0]
    if crs.is_bound and crs.source_crs is not None:
        crs = crs.source_crs  # its own way to WGS 84 may name files
    if not (crs.is_projected or crs.is_geographic):
        raise RegionError(f"{told} is in {title(crs)}, which is no map projection and no longitude and latitude")
    return None if crs.is_geographic and crs.equals(LONLAT, ignore_axis_order=True) else crs


def title(crs: pyproj.CRS) -> str:
    """What people call a system."""
    code = crs.to_authority(min_confidence=100)
    return f"{crs.name!r}" + (f" ({':'.join(code)})" if code else "")


def to_lonlat(geometry: BaseGeometry, crs: pyproj.CRS, label: str) -> BaseGeometry:
    """Polygons of a system in longitude and latitude (WGS 84), split at the antimeridian.

    Args:
        geometry: x (east) and y (north) in the units of ``crs``.
        crs: From this module.
        label: What the message calls it.

    Raises:
        RegionError: It does not lie where the system is defined.
    """
    xy = shapely.get_coordinates(geometry)
    if crs.is_projected:
        if np.abs(xy).max(initial=0.0) <= 180.0:
            raise RegionError(
                f"{label} says {title(crs)}, but its coordinates look like degrees: correct its coordinate system"
            )
        unit = crs.axis_info[0].unit_conversion_factor or 1.0 if crs.axis_info else 1.0
        step = max(STEP_M / unit, geometry.length / MAX_STEPS)
        if math.isfinite(step):
            geometry = shapely.segmentize(geometry, step)
    try:
        forward = pyproj.Transformer.from_crs(crs, LONLAT, always_xy=True)
        lonlat = shapely.transform(geometry, forward.transform, interleaved=False)
    except ProjError as error:
        raise RegionError(f"{label} cannot be turned from {title(crs)} into longitude and latitude: {error}") from error
    if not np.isfinite(shapely.get_coordinates(lonlat)).all():
        raise RegionError(f"{label} leaves the area in which {title(crs)} is defined: correct its coordinate system")
    wide = any(east - west > 180.0 for west, _, east, _ in shapely.bounds(shapely.get_parts(lonlat)))
    return antimeridian.split(lonlat) if wide else lonlat
