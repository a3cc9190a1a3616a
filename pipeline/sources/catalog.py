"""Finds scenes: one search, frozen at once, checked again on this side, de-duplicated, sorted, normalised.

Servers may ignore any filter (pystac-client only warns), may repeat items across pages, and may hold several
processings of one acquisition; none of that reaches the plan.
"""

from __future__ import annotations

import datetime as dt
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pystac_client
import shapely
from pystac_client.conformance import ConformanceClasses

from pipeline.errors import (
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
from pipeline.sources.http import retry_policy, session
from pipeline.sources.items import item_cloud_cover, item_datetime, item_footprint, item_id, normalise_item, one_item
from pipeline.sources.providers import PROVIDERS
from pipeline.sources.stac_api import DoorStacIO
from pipeline.sources.united import CatalogShare, Offer, placed, unite

PAGE_SIZE = 100


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
    with session(door, retry_policy()) as http:
        root = static_catalog.read_document(url, http)
        if not isinstance(root, dict):
            raise CatalogError(f"{url} is not a STAC catalog")
        if _is_api(root):
            # A private mirror of a provider keeps the provider's collection id.
            collection = source.collection or defaults.collection
            returned = list(_search_api(url, door, source, collection, region, start, end))
        else:
            returned = [FoundItem(i, where) for i, where in static_catalog.walk(root, url, http, door, problems)]
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
    what = "; ".join(what_was_searched(search, region, start, end, source.max_cloud_cover) for search in answers)
    if len(united.scenes) > source.max_scenes:
        raise TooManyScenesError(
            f"{what}: {len(united.scenes)} scenes, more than source.max_scenes = {source.max_scenes}; "
            "narrow the dates, the region or source.max_cloud_cover, or raise source.max_scenes"
        )
    if not united.scenes:
        none = NoUsableScenesError if problems else NoScenesError
        raise none(f"{what}: {_why_none(sum(s.returned for s in answers), dropped, problems)}")
    return SceneSearch(
        scenes=united.scenes,
        skipped=tuple(sorted(problems)),
        superseded=united.superseded,
        dropped=tuple(sorted(dropped.items())),
        catalogs=tuple(
            replace(share, url=_shown(one), failure=str(search) if isinstance(search, CatalogError) else None)
            for one, share, search in zip(source.catalogs, united.shares, searches, strict=True)
        ),
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


def _is_api(root: Mapping[str, Any]) -> bool:
    links = root.get("links")
    rels = [link.get("rel") for link in links if isinstance(link, dict)] if isinstance(links, list) else []
    return "conformsTo" in root or "search" in rels


def _search_api(
    url: str,
    door: hrefs.Door,
    source: SourceConfig,
    collection: str | None,
    region: Region,
    start: dt.date,
    end: dt.date,
) -> Iterator[FoundItem]:
    stac_io = DoorStacIO(door, retry_policy())
    seen: set[tuple[Any, Any]] = set()
    try:
        with warnings.catch_warnings():
            # What a server cannot filter is filtered on this side, so its missing conformance is no news.
            warnings.simplefilter("ignore")
            client = pystac_client.Client.open(url, stac_io=stac_io)
            for bbox in search_boxes(region):
                search = client.search(
                    collections=[collection] if collection else None,
                    bbox=bbox,
                    datetime=f"{start.isoformat()}T00:00:00Z/{_end_of(end)}",
                    limit=PAGE_SIZE,
                    **_cloud_filter(client, source.max_cloud_cover),
                )
                for page in search.pages_as_dicts():
                    fresh = [f for f in page.get("features") or () if isinstance(f, dict) and _key(f) not in seen]
                    seen.update(_key(f) for f in fresh)
                    if not fresh:
                        # Some servers link a last page to itself without end.
                        break
                    yield from (FoundItem(feature, _api_base(feature, url)) for feature in fresh)
                    if len(seen) > 20 * source.max_scenes + 1000:
                        raise TooManyScenesError(
                            f"{url} returns more than {len(seen) - 1} items; narrow the dates or the region"
                        )
    except CatalogError:
        raise
    except Exception as error:  # pystac-client lets through errors of several layers: HTTP, JSON, missing members
        raise CatalogError(f"the STAC search at {url} failed: {type(error).__name__}: {error}") from error


def _end_of(day: dt.date) -> str:
    # Whole seconds, because not every server reads fractions; the client side check cuts off the next day's midnight.
    return f"{day.isoformat()}T23:59:59Z" if day == dt.date.max else f"{day + dt.timedelta(days=1)}T00:00:00Z"


def _key(feature: Mapping[str, Any]) -> tuple[Any, Any]:
    return str(feature.get("collection")), str(feature.get("id"))


def _api_base(feature: Mapping[str, Any], url: str) -> str:
    for link in feature.get("links") or ():
        if isinstance(link, dict) and link.get("rel") == "self" and str(link.get("href")).startswith("http"):
            return str(link["href"])
    return url.rstrip("/") + "/"


def _cloud_filter(client: Any, max_cloud_cover: float) -> dict[str, Any]:
    if max_cloud_cover >= 100.0:
        return {}
    if client.conforms_to(ConformanceClasses.QUERY):
        return {"query": {"eo:cloud_cover": {"lte": max_cloud_cover}}}
    if client.conforms_to(ConformanceClasses.FILTER):
        condition = {"op": "<=", "args": [{"property": "eo:cloud_cover"}, max_cloud_cover]}
        return {"filter": condition, "filter_lang": "cql2-json"}
    return {}


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
    seen: set[tuple[Any, Any]] = set()
    shapely.prepare(region.geometry)
    for candidate in candidates:
        item = candidate.item
        try:
            with one_item(item):
                item_id(item)
                day = item_datetime(item).date()
                footprint = item_footprint(item)
                cloud = item_cloud_cover(item)
        except SceneError as error:
            problems.append((str(item.get("id"))[:256], str(error)))
            continue
        if collection is not None and item.get("collection") not in (collection, None):
            dropped["are of another collection"] += 1
        elif not start <= day <= end:
            dropped["are outside the dates"] += 1
        elif not region.geometry.intersects(footprint):
            dropped["do not touch the region"] += 1
        elif cloud is not None and cloud > max_cloud_cover:
            dropped["are cloudier than source.max_cloud_cover"] += 1
        elif _key(item) in seen:
            dropped["are repeated"] += 1
        else:
            seen.add(_key(item))
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
