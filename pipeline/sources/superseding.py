"""Which items are the same granule at the same time: reprocessed products give way where newer ones cover them."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.sources.baselines import processing_baseline
from pipeline.sources.items import item_datetime, item_footprint, item_id, item_properties, parse_datetime
from pipeline.sources.projections import mgrs_tile

SAME_ACQUISITION = dt.timedelta(minutes=10)
"""One satellite passes over a place within seconds; the next orbit that can see it comes 98 minutes later or more."""
UNCOVERED_SHARE = 0.02
"""Footprints are traced anew with each processing: the same ground differs by a pixel of a preview or two."""
_SATELLITE = re.compile(r"(?:SENTINEL|S)[-_ ]?(2[A-Z])(?![A-Z0-9])")


def supersede(
    items: Sequence[dict[str, Any]], unusable: Mapping[int, str]
) -> tuple[list[dict[str, Any]], tuple[tuple[str, str], ...]]:
    """Drops an older processing of a granule where newer ones cover its ground.

    Two items are of the same observation if their MGRS tile and satellite agree and their times lie within
    ``SAME_ACQUISITION``. An older one is dropped only if all but ``UNCOVERED_SHARE`` of its footprint lies within the
    newer ones: the parts of a granule that was received or processed in pieces are all kept. Newest is the highest
    processing baseline, then ``created``, then the id. An item that cannot be used yields to any that can.

    Args:
        items: STAC items, each with an id, a time and a footprint.
        unusable: ``id(item)`` → why it cannot be used.

    Returns:
        The items kept, in their order, and (id, reason) of the others, sorted.
    """
    by_tile: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        tile = mgrs_tile(item)
        if tile is not None:
            by_tile.setdefault(tile, []).append(item)
    gone: dict[int, tuple[str, str]] = {}
    for tile in sorted(by_tile):
        kept: list[dict[str, Any]] = []
        for item in sorted(by_tile[tile], key=lambda i: (id(i) not in unusable, *_newness(i)), reverse=True):
            newer = _covering(item, [k for k in kept if _same_observation(item, k)])
            if not newer:
                kept.append(item)
                continue
            names = " and ".join(item_id(n) for n in newer)
            reason = f"superseded by {names}, a newer processing"
            if id(item) in unusable and id(newer[0]) not in unusable:
                reason = f"{names} is used in its place: {unusable[id(item)]}"
            gone[id(item)] = (item_id(item), reason)
    return [item for item in items if id(item) not in gone], tuple(sorted(gone.values()))


def _same_observation(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    if abs(item_datetime(a) - item_datetime(b)) > SAME_ACQUISITION:
        return False
    # Two satellites may fly one behind the other, as Sentinel-2A and 2C did: seconds apart, two observations.
    return all(not one or not other or one == other for one, other in zip(_satellites(a), _satellites(b), strict=True))


def _satellites(item: Mapping[str, Any]) -> tuple[str, str]:
    """The satellite by the properties and by the id, such as ``2A``; "" where unknown."""
    return tuple(  # type: ignore[return-value]
        found[1] if (found := _SATELLITE.search(str(text or "").upper())) else ""
        for text in (item_properties(item).get("platform"), item.get("id"))
    )


def _covering(item: Mapping[str, Any], newer: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of the newer items that cover an item's ground, if together they cover (nearly) all of it."""
    footprint = item_footprint(item)
    left = footprint
    used: list[Mapping[str, Any]] = []
    for other in newer:
        rest = left.difference(item_footprint(other))
        if rest.area < left.area:
            left, used = rest, [*used, other]
        if left.area <= UNCOVERED_SHARE * footprint.area:
            return used
    return []


def _newness(item: Mapping[str, Any]) -> tuple[tuple[int, int], dt.datetime, str]:
    properties = item_properties(item)
    created = dt.datetime.min.replace(tzinfo=dt.UTC)
    for key in ("s2:generation_time", "created", "updated"):
        try:
            created = parse_datetime(properties[key])
            break
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
    return processing_baseline(item) or (0, 0), created, item_id(item)
