"""Which items are the same granule at the same time: reprocessed products are superseded by the newest one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.sources.baselines import processing_baseline
from pipeline.sources.items import item_datetime, item_footprint, item_id, item_properties, parse_datetime
from pipeline.sources.projections import mgrs_tile

SAME_ACQUISITION = dt.timedelta(minutes=10)
"""One satellite passes over a place within seconds; the next orbit that can see it comes 98 minutes later or more."""


def supersede(
    items: Sequence[dict[str, Any]], unusable: Mapping[int, str]
) -> tuple[list[dict[str, Any]], tuple[tuple[str, str], ...]]:
    """Keeps the newest processing of each granule and acquisition.

    Two items are the same observation if their MGRS tile agrees, their times lie within ``SAME_ACQUISITION`` and
    one footprint lies mostly (> 50 %) within the other: the two halves of a granule cut by a datastrip border are
    kept both. Newest is the highest processing baseline, then ``created``, then the id. An item that cannot be used
    yields to any that can.

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
            newer = next((k for k in kept if _same_observation(item, k)), None)
            if newer is None:
                kept.append(item)
            else:
                reason = f"superseded by {item_id(newer)}, a newer processing"
                if id(item) in unusable and id(newer) not in unusable:
                    reason = f"{item_id(newer)} is used in its place: {unusable[id(item)]}"
                gone[id(item)] = (item_id(item), reason)
    return [item for item in items if id(item) not in gone], tuple(sorted(gone.values()))


def _same_observation(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    if abs(item_datetime(a) - item_datetime(b)) > SAME_ACQUISITION:
        return False
    first, second = item_footprint(a), item_footprint(b)
    smaller = min(first.area, second.area)
    return bool(smaller > 0.0 and first.intersection(second).area > 0.5 * smaller)


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
