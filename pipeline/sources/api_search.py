"""Searches a STAC API until it has given all it holds, or says with numbers that it has not.

A server may refuse large pages, take GET only, forget or repeat the link to the next page, drop items without a cloud
cover, or ignore any field. What it counts is held against what it gave; what is short is paged on without links, then
cut by its dates.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.errors import CatalogError, IncompleteSearchError, TooManyScenesError
from pipeline.sources.api_address import Api
from pipeline.sources.api_negotiation import Negotiation
from pipeline.sources.api_paging import Question, further_asks, next_ask
from pipeline.sources.api_requests import Ask, Kind, Page, Refusal
from pipeline.sources.completeness import Completeness
from pipeline.sources.hrefs import Door, shown
from pipeline.sources.items import parse_datetime

MAX_EMPTY_PAGES = 50
"""In a row, each with a link to another."""
MAX_REPEATED_PAGES = 3
"""In a row, without an item that was not there before."""

_NO_TIME = dt.timedelta(0)
_SECOND = dt.timedelta(seconds=1)
_DAY = dt.timedelta(days=1)
Box = tuple[float, float, float, float]
Key = tuple[str, str]


@dataclass(frozen=True)
class ApiItems:
    """What a search gave."""

    features: tuple[dict[str, Any], ...]
    """Each once, as served, in the order of the server."""
    completeness: Completeness


def search_api(
    api: Api,
    door: Door,
    collection: str | None,
    boxes: Sequence[Box],
    begin: dt.datetime,
    end: dt.datetime,
    *,
    max_cloud_cover: float = 100.0,
    max_items: int = 1_000_000,
) -> ApiItems:
    """All items of a collection within boxes and dates, and whatever else the server gives.

    Args:
        api: The API.
        door: What may be opened.
        collection: Its id; None for all.
        boxes: West, south, east, north in degrees; each is one search.
        begin: UTC, whole seconds.
        end: UTC, whole seconds, inclusive.
        max_cloud_cover: Percent; asked of servers that can.
        max_items: More are an error.

    Raises:
        IncompleteSearchError: The server counts more items than it gives.
        TooManyScenesError: More than ``max_items``.
        CatalogError: No answer, or none of a STAC API; the message says how far the search got.
    """
    search = _Search(api, door, collection, max_cloud_cover, max_items)
    questions = [Question(collection, box, begin, end, max_cloud_cover) for box in boxes]
    for question in questions:
        search.whole(question)
    if any(map(search.filter_drops_items, questions)):
        search.start_again_without_filter()
        for question in questions:
            search.whole(question)
    notes = tuple(dict.fromkeys([*search.server.notes, *search.notes]))
    return ApiItems(tuple(search.items.values()), Completeness(search.received, search.counted, notes))


@dataclass
class _Walk:
    """One search from its first page to the last that could be had."""

    first: Ask
    first_length: int
    size: int
    """Items asked for in a page."""
    pages: int = 0
    """With something new."""
    last_length: int = 0
    """Of the last of them."""
    given: int = 0
    """Features of them, repeated ones too."""
    keys: set[Key] = field(default_factory=set)
    counted: int | None = None
    """By the server."""
    ended: bool = False
    """The last page had no link to another."""
    refusal: Refusal | None = None
    """Of the page that could not be had."""

    def is_short(self) -> bool:
        """True if a page could not be had, or the server counts more than it gave."""
        if self.counted is not None and len(self.keys) >= self.counted:
            return False
        if self.refusal is not None:
            return True
        # Some servers count an item each time that they give it; over several pages one may stand for another.
        return self.counted is not None and (self.pages > 1 or self.given < self.counted)

    def is_doubtful(self, cap: int | None) -> bool:
        """True if there may be more although nothing says so: a page that is full, or full to a round number."""
        if self.pages > 1:
            return not self.ended and self.refusal is None and self.last_length >= self.first_length
        if self.given == 0:
            return False
        if cap is not None:
            return self.given >= cap
        # Some servers count the page only.
        full = self.given >= (self.size if self.counted is None else max(self.size, 10))
        return full or not self.ended or self.given % 10 == 0


class _Search:
    """What one server gave so far, and whether that is all."""

    def __init__(self, api: Api, door: Door, collection: str | None, max_cloud_cover: float, max_items: int) -> None:
        self.name = shown(api.root).strip("'\"")
        self.server = Negotiation(api, door, collection, max_cloud_cover)
        self.items: dict[Key, dict[str, Any]] = {}
        self.received = 0
        self.counted: int | None = 0
        self.notes: list[str] = []
        self._max_items = max_items
        self._finest: dt.timedelta | None = _SECOND
        """Shortest period that the server can be asked for; None if it ignores dates."""
        self._counts_by_date = True
        self._links_pages: bool | None = None
        """Whether the server has linked a page to another; None where none had to be."""
        self._links_lead_on = True
        self._pages_unlinked = True

    def whole(self, question: Question) -> None:
        """Searches one box for the whole time."""
        walk = self._walk(question)
        keys: set[Key] = set()
        self._complete(walk, question, keys)
        self.received += len(keys)
        if walk.counted is None or self.counted is None:
            self.counted = None
            return
        self.counted += walk.counted
        if len(keys) < walk.counted:
            self.notes.append(
                f"the server counts {walk.counted} items for the whole search, but gives {len(keys)} different ones, "
                "and each part of it in full"
            )

    def filter_drops_items(self, question: Question) -> bool:
        """True if the server's cloud filter leaves out items that do not say how cloudy they are, or all items."""
        if not self.server.cloud_filter or any(map(_lacks_cloud_cover, self.items.values())):
            return False
        try:
            page, _ = self.server.small_page(question, 20)
        except Refusal as refusal:
            self.notes.append(f"whether the server's cloud filter leaves out more than clouds is not known: {refusal}")
            return False
        if any(map(_lacks_cloud_cover, page.features)):
            self.notes.append(
                "items of this catalog do not say eo:cloud_cover, and the server's cloud filter leaves them out: it "
                "was asked again without the filter"
            )
            return True
        return not self.items and page.length > 0

    def start_again_without_filter(self) -> None:
        """Forgets the counts; the items stay."""
        self.server.cloud_filter = ""
        self.received, self.counted = 0, 0

    def _complete(self, walk: _Walk, question: Question, keys: set[Key], cap: int | None = None) -> None:
        """Brings what a walk lacks.

        Args:
            walk: The search as far as the server's links led.
            question: What was searched for.
            keys: Takes what was found.
            cap: A page of so many items is suspected to be all that the server ever gives.

        Raises:
            CatalogError: It cannot be brought.
        """
        keys |= walk.keys
        if walk.counted is not None and walk.counted < len(walk.keys):
            walk.counted = None  # of the page, or guessed
        short = walk.is_short()
        if not short and not walk.is_doubtful(cap) and (cap is not None or not self._may_lack_links(walk, question)):
            return
        if walk.refusal is not None and walk.refusal.kind is Kind.FINAL:
            raise self._failed(walk.refusal, walk.counted)
        # Whether very few items are all that there are is not worth very many requests.
        middle = self._middle(question, _DAY if not short and walk.given < 10 else _SECOND)
        if (short or middle is None) and self._page_on(walk):
            keys |= walk.keys
            return
        if middle is not None:
            parts = [replace(question, end=middle), replace(question, begin=middle)]
            walks = [self._walk(part) for part in parts]
            if short and self._finest is not None and _counts_the_same(walk, *walks):
                self._counts_by_date = False
                self.notes.append(f"the server counts {walk.counted} items whatever the dates, which says nothing")
                walk.counted = None
                return self._complete(walk, question, keys, cap)
            if self._middle(question) is not None:
                for part, inner in zip(parts, walks, strict=True):
                    self._complete(inner, part, keys, None if short else walk.first_length)
                return
        self._give_up(walk, question, keys, cap)

    def _give_up(self, walk: _Walk, question: Question, keys: set[Key], cap: int | None) -> None:
        if walk.refusal is not None and walk.is_short():
            if not self.server.halve(walk.refusal):
                raise self._failed(walk.refusal, walk.counted)
            self._complete(self._walk(question), question, keys, cap)
        elif walk.counted is not None and walk.given < walk.counted:
            raise IncompleteSearchError(
                f"the STAC search at {self.name} is incomplete: the server counts {walk.counted} items from "
                f"{question.begin:%Y-%m-%d %H:%M} to {question.end:%Y-%m-%d %H:%M} and gives {len(walk.keys)}, without "
                "a usable link to more; neither page numbers nor shorter dates bring the rest. Search a smaller "
                "region or shorter dates, or another catalog"
            )
        elif walk.counted is None:
            self.notes.append(
                f"the server gave {len(walk.keys)} items, without a count or a usable link to more: whether "
                "there are more cannot be known"
            )

    def _walk(self, question: Question) -> _Walk:
        try:
            page, ask = self.server.first_page(question)
        except Refusal as refusal:
            raise self._failed(refusal) from refusal
        walk = _Walk(ask, page.length, self.server.size)
        asked = {ask.key}
        empty = repeated = 0
        while True:
            if self._counts_by_date and page.counted is not None:
                walk.counted = max(page.counted, walk.counted or 0)
            if self._take(page, walk, question):
                empty = repeated = 0
            elif page.length:
                repeated += 1
            else:
                empty += 1
            following = next_ask(page, walk.first)
            if following is None:
                walk.ended = True
                return walk
            self._links_pages = True
            if following.key in asked or repeated >= MAX_REPEATED_PAGES or not self._links_lead_on:
                # The last page may link itself; or the server hears no links.
                self._links_lead_on = self._links_lead_on and (walk.pages != 1 or not repeated)
                return walk
            if empty >= MAX_EMPTY_PAGES:
                text = f"{empty} empty pages in a row, each with a link to another"
                walk.refusal = Refusal(Kind.FINAL, text)
                return walk
            asked.add(following.key)
            try:
                page = self.server.further_page(following, walk.first)
            except Refusal as refusal:
                walk.refusal = refusal
                return walk

    def _may_lack_links(self, walk: _Walk, question: Question) -> bool:
        """True if a server that counts nothing does not even link the second of several items, asked for one."""
        if walk.counted is not None or walk.given < 2:
            return False
        if self._links_pages is None:
            try:
                page, ask = self.server.small_page(question, 1)
            except Refusal:
                return False
            self._links_pages = next_ask(page, ask) is not None
        return not self._links_pages

    def _page_on(self, walk: _Walk) -> bool:
        """Pages on without links; True if that brought what was missing."""
        if walk.refusal is not None or not self._pages_unlinked:
            return False
        before = len(walk.keys)
        for way in ("offset", "startindex", "page", "token"):
            while True:
                ask = further_asks(walk.first, walk.given, walk.first_length)[way]
                try:
                    page = self.server.ask(ask)
                except Refusal:
                    break
                if not self._take(page, walk):
                    break
            if len(walk.keys) > before:
                return not walk.is_short()
        self._pages_unlinked = False
        return False

    def _take(self, page: Page, walk: _Walk, question: Question | None = None) -> bool:
        """Keeps what a page holds; True if something of it is new to the walk."""
        before = len(walk.keys)
        beyond = [_NO_TIME]
        for feature in page.features:
            key = item_key(feature)
            walk.keys.add(key)
            self.items.setdefault(key, feature)
            if question is not None:
                beyond.append(_beyond(feature, question))
        if 4 * sum(time > _DAY for time in beyond) > page.length:
            self._finest = None
        elif self._finest is not None and 4 * sum(time > _SECOND for time in beyond) > page.length:
            self._finest = _DAY
        if len(self.items) > self._max_items:
            raise TooManyScenesError(
                f"{self.name} returns more than {self._max_items} items; narrow the dates or the region"
            )
        if len(walk.keys) == before:
            return False
        walk.pages += 1
        walk.given += page.length
        walk.last_length = page.length
        return True

    def _middle(self, question: Question, finest: dt.timedelta = _SECOND) -> dt.datetime | None:
        """Where a period is cut in two; None if it cannot be, or is short enough."""
        begin, end = question.begin, question.end
        if self._finest is None or end - begin <= max(finest, self._finest):
            return None
        middle = begin + (end - begin) / 2
        if end - begin > _DAY:
            midnight = middle.replace(hour=0, minute=0, second=0, microsecond=0)
            middle = midnight if midnight > begin else midnight + _DAY
        else:
            middle = middle.replace(microsecond=0)
        return middle if begin < middle < end else None

    def _failed(self, refusal: Refusal, counted: int | None = None) -> CatalogError:
        got = ""
        if self.items:
            of = f" of the {counted} that the server counts" if counted is not None else ""
            got = f" after {len(self.items)} items{of}"
        return CatalogError(f"the STAC search at {self.name} failed{got}: {refusal}")


def item_key(feature: Mapping[str, Any]) -> Key:
    """Equal for the same item."""
    return str(feature.get("collection")), str(feature.get("id"))


def _counts_the_same(whole: _Walk, first: _Walk, second: _Walk) -> bool:
    """True if a server counts as much for each half of a period as for the whole, though the halves differ."""
    if not whole.counted or not first.counted == second.counted == whole.counted:
        return False
    # Both halves hold the second between them: items may all be of that one.
    return 2 * len(first.keys & second.keys) <= len(first.keys | second.keys)


def _lacks_cloud_cover(feature: Mapping[str, Any]) -> bool:
    properties = feature.get("properties")
    return isinstance(properties, dict) and properties.get("eo:cloud_cover") is None


def _beyond(feature: Mapping[str, Any], question: Question) -> dt.timedelta:
    """How far an item lies outside of the dates that were asked for; zero where it does not say when it is."""
    properties = feature.get("properties")
    if not isinstance(properties, dict) or properties.get("start_datetime") is not None:
        return _NO_TIME
    try:
        time = parse_datetime(properties["datetime"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return _NO_TIME
    return max(question.begin - time, time - question.end, _NO_TIME)
