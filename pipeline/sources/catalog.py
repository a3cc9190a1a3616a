"""Finds scenes: one search, frozen at once, checked again on this side, de-duplicated, sorted, normalised.

Servers may ignore any filter, may repeat items across pages, and may hold several processings of one acquisition; none
of that reaches the plan.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import shapely

from pipeline.errors import (
    CatalogAddressError,
    CatalogError,
    HrefError,
    NoCatalogError,
    NoScenesError,
    NoUsableScenesError,
    SceneError,
    TooManyScenesError,
)
from pipeline.records.region import Region
from pipeline.records.scene import Scene
from pipeline.settings.run_file import SourceConfig
from pipeline.sources import hrefs, static_catalog
from pipeline.sources.api_address import Api, open_catalog
from pipeline.sources.api_search import item_key, search_api
from pipeline.sources.completeness import Completeness, together
from pipeline.sources.http import retry_policy, session
from pipeline.sources.items import item_cloud_cover, item_datetime, item_footprint, item_id, normalise_item, one_item
from pipeline.sources.providers import PROVIDERS
from pipeline.sources.united import CatalogShare, Offer, placed, unite


@dataclass(frozen=True)
class SceneSearch:
    """What a search found, and what became of the rest."""

    scenes: tuple[Scene, ...]
    """Sorted by time, tile and id."""
    skipped: tuple[tuple[str, str], ...] = ()
    """(item id, document or catalog, reason) of items that matched but cannot be used, and of catalogs of several that
    do not answer: scenes that only they have may be missing."""
    superseded: tuple[tuple[str, str], ...] = ()
    """(item id, reason) of older processings of an acquisition that is in ``scenes``."""
    dropped: tuple[tuple[str, int], ...] = ()
    """(reason, count) of items that the server returned although they do not match."""
    catalogs: tuple[CatalogShare, ...] = field(default=(), compare=False)
    """In order of preference."""
    completeness: Completeness = field(default_factory=Completeness, compare=False)
    """Items that the servers count and gave; known of APIs."""


@dataclass(frozen=True)
class FoundItem:
    """One STAC item as it was served."""

    item: dict[str, Any]
    """Plain JSON data, with a usable id, time and footprint."""
    base: str
    """URL or path of the document that held it; relative hrefs start there."""


@dataclass(frozen=True)
class ItemSearch:
    """Items that match a search, checked on this side."""

    items: tuple[FoundItem, ...]
    """Each once, in the order of the catalog."""
    problems: tuple[tuple[str, str], ...]
    """(item id or document, reason) of what cannot be used."""
    dropped: tuple[tuple[str, int], ...]
    """(reason, count) of items that the server returned although they do not match."""
    returned: int
    """Items that the catalog gave, before any check."""
    url: str
    collection: str | None
    completeness: Completeness = field(default_factory=Completeness)


def catalog_url(source: SourceConfig) -> str:
    """The address of the catalog: the run file's, or the provider's own.

    Raises:
        CatalogError: There is none, or it is malformed.
    """
    url = source.url or PROVIDERS[source.provider].url
    if url is None:
        raise CatalogError("source.url is needed for the generic provider: a STAC API or a catalog.json")
    try:
        hrefs.is_local_source(url)
    except HrefError as error:
        raise CatalogError(f"source.url: {error}") from error
    return url


def asset_door(source: SourceConfig) -> hrefs.AssetDoor:
    """What the readers may open for a run: its schemes and roots, and the hosts that it names."""
    urls = [catalog_url(one) for one in source.catalogs]
    return hrefs.AssetDoor(
        schemes=source.allowed_schemes,
        roots=source.allowed_roots,
        hosts=tuple(sorted({host for url in urls for host in hrefs.named_hosts(url, source.allowed_roots)})),
        local_source=any(hrefs.is_local_source(url) for url in urls),
    )


def find_items(source: SourceConfig, region: Region, start: dt.date, end: dt.date) -> ItemSearch:
    """Searches a STAC API or walks a static catalog for items of any kind.

    Args:
        source: Provider, address, collection and limits.
        region: Items must intersect it.
        start: First day, inclusive, UTC.
        end: Last day, inclusive, UTC.

    Raises:
        CatalogError: The catalog does not answer, or not with STAC.
    """
    defaults = PROVIDERS[source.provider]
    url = catalog_url(source)
    door = hrefs.CatalogDoor(url, source.allowed_roots)
    collection = source.collection
    problems: list[tuple[str, str]] = []
    completeness = Completeness()
    with session(door, retry_policy()) as http:
        api, root = open_catalog(url, http)
        if api is not None:
            # A private mirror of a provider keeps the provider's collection id.
            collection = _named_collection(api, source) or defaults.collection
            served = search_api(
                api,
                door,
                collection,
                search_boxes(region),
                *_whole_days(start, end),
                max_cloud_cover=source.max_cloud_cover,
                max_items=20 * source.max_scenes + 1000,
            )
            returned = [FoundItem(feature, _api_base(feature, api.root)) for feature in served.features]
            completeness = served.completeness
        else:
            place = static_catalog.located(url)
            returned = [FoundItem(i, where) for i, where in static_catalog.walk(root, place, http, door, problems)]
            # A static catalog may call its scenes anything; a collection called as the provider calls it is it.
            if collection is None and any(c.item.get("collection") == defaults.collection for c in returned):
                collection = defaults.collection
    matched, dropped = _recheck(returned, collection, region, start, end, source.max_cloud_cover, problems)
    return ItemSearch(
        items=tuple(matched),
        problems=tuple(problems),
        dropped=tuple(sorted(dropped.items())),
        returned=len(returned),
        url=url,
        collection=collection,
        completeness=completeness,
    )


def find_scenes(source: SourceConfig, region: Region, start: dt.date, end: dt.date) -> SceneSearch:
    """Searches STAC APIs or walks static catalogs, one or several, and makes one list of what they have.

    Of several catalogs, one that does not answer is told and costs what it alone has.

    Args:
        source: Catalogs in order of preference, and limits.
        region: Scenes must intersect it.
        start: First day, inclusive, UTC.
        end: Last day, inclusive, UTC.

    Raises:
        NoScenesError: Nothing matches; the message says what was searched, what was dropped and what to widen.
        NoUsableScenesError: Scenes match, and none can be used; the message gives the first reason.
        TooManyScenesError: More than ``source.max_scenes``; the message says what to narrow.
        CatalogError: No catalog answers, or none with STAC.
    """
    doors = [asset_door(one) for one in source.catalogs]  # all addresses are looked at before any is asked
    searches: list[ItemSearch | CatalogError] = []
    for one in source.catalogs:
        try:
            searches.append(find_items(one, region, start, end))
        except TooManyScenesError:
            raise
        except CatalogError as error:
            searches.append(error)
    answers = [search for search in searches if isinstance(search, ItemSearch)]
    if not answers:
        raise _none_answers([search for search in searches if isinstance(search, CatalogError)])
    problems: list[tuple[str, str]] = []
    dropped: Counter[str] = Counter()
    offers: list[list[Offer]] = []
    for one, door, search in zip(source.catalogs, doors, searches, strict=True):
        if isinstance(search, CatalogError):
            problems.append((_shown(one), f"scenes that only this catalog has may be missing: {search}"))
            offers.append([])
        else:
            problems += search.problems
            dropped.update(dict(search.dropped))
            offers.append([_offer(found, one, door) for found in search.items])
    united = unite(offers)
    problems += united.unusable
    completeness = together([search.completeness for search in answers])
    what = "; ".join(what_was_searched(search, region, start, end, source.max_cloud_cover) for search in answers)
    if len(united.scenes) > source.max_scenes:
        raise TooManyScenesError(
            f"{what}: {len(united.scenes)} scenes, more than source.max_scenes = {source.max_scenes}; "
            "narrow the dates, the region or source.max_cloud_cover, or raise source.max_scenes"
        )
    if not united.scenes:
        none = NoUsableScenesError if problems else NoScenesError
        why = _why_none(sum(s.returned for s in answers), dropped, problems)
        raise none("; ".join([f"{what}: {why}", *completeness.notes]))
    return SceneSearch(
        scenes=united.scenes,
        skipped=tuple(sorted(problems)),
        superseded=united.superseded,
        dropped=tuple(sorted(dropped.items())),
        catalogs=tuple(
            replace(share, url=_shown(one), failure=str(search) if isinstance(search, CatalogError) else None)
            for one, share, search in zip(source.catalogs, united.shares, searches, strict=True)
        ),
        completeness=completeness,
    )


def _offer(found: FoundItem, source: SourceConfig, door: hrefs.AssetDoor) -> Offer:
    try:
        scene = normalise_item(found.item, source.provider, source=source, base=found.base, door=door)
        with one_item(found.item):
            return Offer(found.item, placed(scene, found.item))
    except SceneError as error:
        return Offer(found.item, None, str(error))


def _shown(source: SourceConfig) -> str:
    """A catalog for messages: its address, and its collection if the run file names one."""
    collection = "" if source.collection is None else f" ({source.collection})"
    return hrefs.shown(catalog_url(source)).strip("'\"") + collection


def _none_answers(errors: Sequence[CatalogError]) -> CatalogError:
    if len(errors) == 1:
        return errors[0]
    kind = NoCatalogError if all(isinstance(error, NoCatalogError) for error in errors) else CatalogError
    return kind(f"none of the {len(errors)} catalogs answers: {'; '.join(map(str, errors))}")


def _named_collection(api: Api, source: SourceConfig) -> str | None:
    if api.collection is not None and source.collection not in (api.collection, None):
        raise CatalogAddressError(
            f"source.url is the address of collection {api.collection!r}, but source.collection is "
            f"{source.collection!r}: leave one of them out"
        )
    return api.collection or source.collection


def _whole_days(start: dt.date, end: dt.date) -> tuple[dt.datetime, dt.datetime]:
    # What lies at the next day's midnight is cut off by the check on this side.
    last = end if end == dt.date.max else end + dt.timedelta(days=1)
    begin = dt.datetime.combine(start, dt.time(), dt.UTC)
    time = dt.time(23, 59, 59) if end == dt.date.max else dt.time()
    return begin, dt.datetime.combine(last, time, dt.UTC)


def _api_base(feature: Mapping[str, Any], url: str) -> str:
    for link in feature.get("links") or ():
        if isinstance(link, dict) and link.get("rel") == "self" and str(link.get("href")).startswith("http"):
            return str(link["href"])
    return url.rstrip("/") + "/"


def search_boxes(region: Region) -> tuple[tuple[float, float, float, float], ...]:
    """lon/lat boxes that hold the region: one, or one on each side of the antimeridian."""
    west, south, east, north = region.geometry.bounds
    if east - west <= 180.0:
        return ((west, south, east, north),)
    parts = shapely.get_parts(region.geometry)
    sides = ([p for p in parts if p.centroid.x < 0.0], [p for p in parts if p.centroid.x >= 0.0])
    return tuple(tuple(shapely.total_bounds(side).tolist()) for side in sides if side)


def _recheck(
    candidates: Sequence[FoundItem],
    collection: str | None,
    region: Region,
    start: dt.date,
    end: dt.date,
    max_cloud_cover: float,
    problems: list[tuple[str, str]],
) -> tuple[list[FoundItem], Counter[str]]:
    matched: list[FoundItem] = []
    dropped: Counter[str] = Counter()
    seen: dict[tuple[Any, Any], dt.datetime] = {}
    shapely.prepare(region.geometry)
    for candidate in candidates:
        item = candidate.item
        try:
            with one_item(item):
                item_id(item)
                moment = item_datetime(item)
                footprint = item_footprint(item)
                cloud = item_cloud_cover(item)
        except SceneError as error:
            problems.append((str(item.get("id"))[:256], str(error)))
            continue
        if collection is not None and item.get("collection") not in (collection, None):
            dropped["are of another collection"] += 1
        elif not start <= moment.date() <= end:
            dropped["are outside the dates"] += 1
        elif not region.geometry.intersects(footprint):
            dropped["do not touch the region"] += 1
        elif cloud is not None and cloud > max_cloud_cover:
            dropped["are cloudier than source.max_cloud_cover"] += 1
        elif (other := seen.get(item_key(item))) is not None:
            if other == moment:
                dropped["are repeated"] += 1
            else:
                problems.append(
                    (item_id(item), f"left out: another item, of {other:%Y-%m-%d %H:%M:%S}, has the same id")
                )
        else:
            seen[item_key(item)] = moment
            matched.append(candidate)
    return matched, dropped


def what_was_searched(search: ItemSearch, region: Region, start: dt.date, end: dt.date, max_cloud_cover: float) -> str:
    """One line for messages: where, what and when."""
    box = ", ".join(f"{v:.3f}" for v in region.geometry.bounds)
    return (
        f"searched {search.url}, collection {search.collection or '(any)'}, {start} to {end}, lon/lat box {box}, "
        f"cloud cover up to {max_cloud_cover:g} %"
    )


def _why_none(returned: int, dropped: Counter[str], problems: Iterable[tuple[str, str]]) -> str:
    unusable = [reason for _, reason in problems]
    if not returned and not unusable:
        return "the catalog returned no items; widen the dates or the region, or check source.collection"
    parts = [f"{count} {reason}" for reason, count in sorted(dropped.items())]
    if unusable:
        parts.append(f"{len(unusable)} cannot be used (first: {unusable[0]})")
    advice = {
        "are cloudier than source.max_cloud_cover": "raise source.max_cloud_cover",
        "are outside the dates": "widen the dates",
        "do not touch the region": "check the region's place",
        "are of another collection": "check source.collection",
    }
    hints = [text for reason, text in advice.items() if dropped[reason]] or ["check source.provider"]
    return f"the catalog returned {returned} items, of which {', '.join(parts)}; {', or '.join(hints)}"
