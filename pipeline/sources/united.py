"""Several catalogs as one: each granule once, from the first that has it, with the files of the others as copies.

Catalogs have their own ids, and their own idea of a granule's time: that of the granule itself, or of the datatake that
it belongs to. So a granule is known by its datatake (by its time where none is named), its MGRS tile, its processing
baseline and its ground. What is the same then is the same product, file by file; another baseline is not.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shapely.geometry.base import BaseGeometry

from pipeline.records.scene import Scene, SceneAsset
from pipeline.sources.baselines import processing_baseline
from pipeline.sources.items import item_cloud_cover, item_datetime, item_footprint, item_properties, parse_datetime
from pipeline.sources.projections import mgrs_tile
from pipeline.sources.superseding import SAME_ACQUISITION, supersede

SAME_PROCESSING = dt.timedelta(minutes=1)
"""Catalogs round the time at which a product was made; it is not made again within so short a time."""
MOST_OF_A_DATATAKE = dt.timedelta(hours=1)
"""A granule whose datatake is said to begin longer before it belongs to another one: the name is not believed."""
SAME_GROUND = 0.5
"""Footprints share so much of the larger one: copies of one product, and not the two halves of a granule."""
_DATATAKE = re.compile(r"(?:^GS2[A-Z]_|^S2[A-Z]_MSIL\d[A-Z]_)(\d{8}T\d{6})(?=_|$)")


@dataclass(frozen=True)
class Offer:
    """One item of one catalog: a scene, or the reason why it is none."""

    item: Mapping[str, Any]
    """With a usable id, time and footprint."""
    scene: Scene | None
    reason: str = ""


@dataclass(frozen=True)
class CatalogShare:
    """What one catalog of a search adds to it."""

    scenes: int = 0
    """That are read from it."""
    copies: int = 0
    """Scenes of catalogs before it that it has too."""
    alone: int = 0
    """Scenes that no other catalog has."""
    url: str = ""
    """For messages."""
    failure: str | None = None
    """Why it does not answer."""


@dataclass(frozen=True)
class United:
    """The granules of several catalogs, each once."""

    scenes: tuple[Scene, ...]
    """Sorted by time, tile and place."""
    unusable: tuple[tuple[str, str], ...]
    """(item id, reason) of granules that no catalog has in a form that can be used."""
    superseded: tuple[tuple[str, str], ...]
    """(item id, reason) of items in whose place another is used."""
    shares: tuple[CatalogShare, ...]
    """Of each catalog."""


@dataclass(frozen=True)
class _Known:
    """An item with what it is known by."""

    catalog: int
    offer: Offer
    tile: str
    time: dt.datetime
    """As the item has it."""
    datatake_start: dt.datetime | None
    baseline: tuple[int, int] | None
    made: dt.datetime | None
    footprint: BaseGeometry

    @property
    def id(self) -> str:
        """As the catalog calls it."""
        return str(self.offer.item["id"])

    @property
    def place(self) -> str:
        """What copies have in common in any case: the tile, or the id where no tile is known."""
        return self.tile or f"id {self.id}"


def placed(scene: Scene, item: Mapping[str, Any]) -> Scene:
    """The scene with its MGRS tile and the time of its datatake, as far as its item tells them."""
    return dataclasses.replace(scene, tile=mgrs_tile(item) or "", datatake_start=datatake_start(item))


def datatake_start(item: Mapping[str, Any]) -> dt.datetime | None:
    """When the swath of a granule began, UTC: from its datatake, product or id; None where none tells."""
    properties = item_properties(item)
    names = ("s2:datatake_id", "s2:product_uri", "sentinel:product_id", "title")
    for name in (*(properties.get(name) for name in names), item.get("id")):
        found = _DATATAKE.search(str(name or ""))
        if found is None:
            continue
        try:
            began = dt.datetime.strptime(found[1], "%Y%m%dT%H%M%S").replace(tzinfo=dt.UTC)
        except ValueError:  # digits that are no day
            continue
        if -SAME_ACQUISITION <= item_datetime(item) - began <= MOST_OF_A_DATATAKE:
            return began
    return None


def unite(catalogs: Sequence[Sequence[Offer]]) -> United:
    """Makes one list of the offers of several catalogs, given in order of preference.

    Within a catalog the newest processing of a granule counts (:func:`pipeline.sources.superseding.supersede`); then
    the same product is one scene wherever it lies; of different processings in different catalogs the newest counts
    again. An item that cannot be used yields to any that can.
    """
    gone: list[tuple[str, str]] = []
    granules = [_usable_first(group) for group in _grouped(catalogs, gone)]
    if len(catalogs) > 1:
        granules = _newest_granules(granules, gone)
    scenes: list[Scene] = []
    unusable: list[tuple[str, str]] = []
    given: Counter[int] = Counter()
    copies: Counter[int] = Counter()
    alone: Counter[int] = Counter()
    for first, *rest in granules:
        if first.offer.scene is None:
            unusable.append((first.id, first.offer.reason))
            continue
        usable = [entry for entry in rest if entry.offer.scene is not None]
        unused = [entry for entry in rest if entry.offer.scene is None]
        gone += [(entry.id, f"{first.id} is used in its place: {entry.offer.reason}") for entry in unused]
        scenes.append(_with_copies(first, usable))
        given[first.catalog] += 1
        alone[first.catalog] += not usable
        copies.update(entry.catalog for entry in usable)
    return United(
        scenes=tuple(sorted(scenes, key=lambda s: (s.moment, s.tile, s.id))),
        unusable=tuple(unusable),
        superseded=tuple(sorted(gone)),
        shares=tuple(CatalogShare(given[n], copies[n], alone[n]) for n in range(len(catalogs))),
    )


def _grouped(catalogs: Sequence[Sequence[Offer]], gone: list[tuple[str, str]]) -> list[list[_Known]]:
    """The products, each with its entries of all catalogs."""
    groups: list[list[_Known]] = []
    by_place: dict[str, list[list[_Known]]] = {}
    for number, offers in enumerate(catalogs):
        # A catalog adds to the products of those before it, at most one entry to each, and never to its own.
        earlier = {place: list(found) for place, found in by_place.items()}
        for offer in _newest(offers, gone):
            entry = _known(number, offer)
            waiting = earlier.get(entry.place, [])
            group = next((g for g in waiting if _same_product(entry, g[0])), None)
            if group is not None:
                earlier[entry.place] = [g for g in waiting if g is not group]
                group.append(entry)
            else:
                groups.append([entry])
                by_place.setdefault(entry.place, []).append(groups[-1])
    return groups


def _newest_granules(granules: Sequence[list[_Known]], gone: list[tuple[str, str]]) -> list[list[_Known]]:
    """Without those of which another catalog has a newer processing."""
    timed = [_timed(first) for first, *_ in granules]
    by_item = {id(item): granule for item, granule in zip(timed, granules, strict=True)}
    unusable = {key: first.offer.reason for key, (first, *_) in by_item.items() if first.offer.scene is None}
    kept, older = supersede(timed, unusable)
    gone += older
    return [by_item[id(item)] for item in kept]


def _newest(offers: Sequence[Offer], gone: list[tuple[str, str]]) -> list[Offer]:
    """The offers of one catalog without older processings."""
    items = [dict(offer.item) for offer in offers]
    by_item = {id(item): offer for item, offer in zip(items, offers, strict=True)}
    unusable = {key: offer.reason for key, offer in by_item.items() if offer.scene is None}
    kept, older = supersede(items, unusable)
    gone += older
    return [by_item[id(item)] for item in kept]


def _known(catalog: int, offer: Offer) -> _Known:
    item = offer.item
    try:
        made = parse_datetime(item_properties(item)["s2:generation_time"])
    except (KeyError, TypeError, ValueError, OverflowError):
        made = None
    return _Known(
        catalog=catalog,
        offer=offer,
        tile=mgrs_tile(item) or "",
        time=item_datetime(item),
        datatake_start=datatake_start(item),
        baseline=processing_baseline(item),
        made=made,
        footprint=item_footprint(item),
    )


def _same_product(a: _Known, b: _Known) -> bool:
    if a.baseline != b.baseline:
        return False
    if a.made is not None and b.made is not None and abs(a.made - b.made) > SAME_PROCESSING:
        return False
    if not _same_acquisition(a, b):
        return False
    larger = max(a.footprint.area, b.footprint.area)
    return bool(a.footprint.intersection(b.footprint).area > SAME_GROUND * larger)


def _same_acquisition(a: _Known, b: _Known) -> bool:
    if a.datatake_start is not None and b.datatake_start is not None:
        return abs(a.datatake_start - b.datatake_start) <= SAME_ACQUISITION
    # One of them names no datatake: its time may be that of the granule or of the datatake.
    times = [[time for time in (k.time, k.datatake_start) if time is not None] for k in (a, b)]
    return any(abs(one - other) <= SAME_ACQUISITION for one in times[0] for other in times[1])


def _usable_first(group: Sequence[_Known]) -> list[_Known]:
    return sorted(group, key=lambda entry: (entry.offer.scene is None, entry.catalog))


def _timed(entry: _Known) -> dict[str, Any]:
    """The item with the time of its datatake, so that processings of different catalogs are told to be of one."""
    properties = {**item_properties(entry.offer.item), "datetime": (entry.datatake_start or entry.time).isoformat()}
    return {**entry.offer.item, "properties": properties}


def _with_copies(first: _Known, rest: Sequence[_Known]) -> Scene:
    """The scene, each of its files with those of the same product in other catalogs behind it."""
    scene, others = first.offer.scene, [entry.offer.scene for entry in rest if entry.offer.scene is not None]
    assert scene is not None
    cloud = next((c for e in (first, *rest) if (c := item_cloud_cover(e.offer.item)) is not None), scene.cloud_cover)
    assets: dict[str, SceneAsset] = {}
    for name, asset in scene.assets.items():
        places = {asset.href: asset, **{copy.href: copy for copy in asset.copies}}
        for other in others:
            if other.epsg == scene.epsg and (found := other.assets.get(name)) is not None:
                for copy in (found, *found.copies):
                    places.setdefault(copy.href, dataclasses.replace(copy, provider=other.provider, copies=()))
        assets[name] = dataclasses.replace(asset, copies=tuple(list(places.values())[1:]))
    return dataclasses.replace(scene, cloud_cover=cloud, assets=assets)
