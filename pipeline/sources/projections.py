"""Which UTM zone an item's grid lies in, whatever way it is written, and which MGRS tile it is.

Projection 1.x (``proj:epsg``) and 2.0 (``proj:code``) are read alike, on the item or on its assets; where both are
null, the full definition (``proj:wkt2``, ``proj:projjson``) or the tile's name tells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pyproj import CRS
from pyproj.exceptions import CRSError

from pipeline.errors import SceneError

MAX_DEFINITION_CHARS = 20_000
"""Longest definition of a projection that is read; one of a UTM zone has 2,000."""
_TILE = re.compile(r"(?<![A-Z0-9])T?(\d{1,2}[C-HJ-NP-X][A-HJ-NP-Z][A-HJ-NP-V])(?![A-Z0-9])")
_CODE = re.compile(
    r"(?:EPSG:{1,2}|URN:OGC:DEF:CRS:EPSG:[^:]*:|HTTPS?://WWW\.OPENGIS\.NET/(?:DEF/)?CRS/EPSG/[^/]*/)?(\d+)(?:\.0*)?"
)
_NOTHING = {"", "NONE", "NULL", "NAN", "EPSG:NONE", "EPSG:NULL", "EPSG:"}


def item_epsg(item: Mapping[str, Any], assets: Sequence[Mapping[str, Any]] = ()) -> int:
    """EPSG code of the item's grid.

    In this order: a code on the item or its assets, a definition there, the zone of its MGRS tile.

    Raises:
        SceneError: Not given, not an EPSG code, or not the same for all assets.
    """
    sources = (_properties(item), *assets)
    codes = {code for source in sources if (code := _code(item, source)) is not None}
    if not codes:
        codes = {code for source in sources if (code := _defined(source)) is not None}
    if len(codes) > 1:
        raise SceneError(f"{item.get('id')}: grids of several projections, EPSG:{sorted(codes)}")
    found = codes.pop() if codes else tile_epsg(mgrs_tile(item))
    if found is None:
        raise SceneError(
            f"{item.get('id')}: no projection: proj:code (or proj:epsg), proj:wkt2, proj:projjson or the MGRS tile "
            "(grid:code) must give it"
        )
    return found


def mgrs_tile(item: Mapping[str, Any]) -> str | None:
    """MGRS tile of an item, such as ``31UFS``: from its properties, in the words of older catalogs too, or its id."""
    properties = _properties(item)
    for key in ("s2:mgrs_tile", "grid:code", "odc:region_code", "id"):
        value = item.get("id") if key == "id" else properties.get(key)
        found = _TILE.search(str(value or "").upper().replace("_", " ").replace("MGRS-", ""))
        if found:
            return found[1].zfill(5)
    for prefix in ("mgrs", "sentinel", "sentinel2"):
        parts = [properties.get(f"{prefix}:{part}") for part in ("utm_zone", "latitude_band", "grid_square")]
        if all(parts):
            zone = str(parts[0]).partition(".")[0]
            if found := _TILE.fullmatch(f"{zone}{parts[1]}{parts[2]}".upper()):
                return found[1].zfill(5)
    return None


def tile_epsg(tile: str | None) -> int | None:
    """UTM zone of an MGRS tile; latitude bands from N on are the northern hemisphere's."""
    if tile is None:
        return None
    zone = int(tile[:2])
    return (32600 if tile[2] >= "N" else 32700) + zone if 1 <= zone <= 60 else None


def _properties(item: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = item.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _code(item: Mapping[str, Any], source: Mapping[str, Any]) -> int | None:
    refused = ""
    for value in (source.get("proj:code"), source.get("proj:epsg")):
        text = str(value).strip().upper() if value is not None else ""
        if text in _NOTHING:
            continue
        found = None if isinstance(value, bool) else _CODE.fullmatch(text)
        if found is not None:
            return int(found[1])
        refused = refused or f"{item.get('id')}: projection {str(value)[:60]!r} is not an EPSG code"
    if refused:
        raise SceneError(refused)
    return None


def _defined(source: Mapping[str, Any]) -> int | None:
    """The code that a full definition has; None where there is none, or it cannot be read."""
    for key in ("proj:wkt2", "proj:projjson", "proj:wkt"):
        value = source.get(key)
        if not value or len(str(value)) > MAX_DEFINITION_CHARS:
            continue
        try:
            crs = CRS.from_json_dict(dict(value)) if isinstance(value, Mapping) else CRS.from_user_input(str(value))
        except (CRSError, ValueError, TypeError):
            continue
        epsg = crs.to_epsg(min_confidence=70)
        if epsg is not None:
            return int(epsg)
        if crs.utm_zone:
            return (32600 if crs.utm_zone.endswith("N") else 32700) + int(crs.utm_zone[:-1])
    return None
