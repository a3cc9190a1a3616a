"""How one search is put to a STAC API, page by page: its fields, and what a link to the next page means."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pystac_client

from pipeline.sources.api_address import Endpoint, joined
from pipeline.sources.api_requests import Ask, Page, get_fields

_SEARCHED_FOR = {"collections", "bbox", "datetime", "intersects", "ids", "query", "filter"}

CloudFilter = str
"""``query``, ``filter`` or ``""``: the extension by which the server leaves out cloudy items."""


@dataclass(frozen=True)
class Question:
    """What is searched for."""

    collection: str | None
    bbox: tuple[float, float, float, float]
    begin: dt.datetime
    end: dt.datetime
    """UTC, whole seconds; both inclusive."""
    max_cloud_cover: float
    cloud_filter: CloudFilter = ""

    def ask(self, endpoint: Endpoint, method: str, size: int) -> Ask:
        """The request for its first page of at most ``size`` items."""
        condition: dict[str, Any] = {}
        if self.cloud_filter == "query":
            condition["query"] = {"eo:cloud_cover": {"lte": self.max_cloud_cover}}
        elif self.cloud_filter == "filter" and method == "GET":
            condition |= {"filter": f'"eo:cloud_cover" <= {self.max_cloud_cover:g}', "filter_lang": "cql2-text"}
        elif self.cloud_filter == "filter":
            comparison = {"op": "<=", "args": [{"property": "eo:cloud_cover"}, self.max_cloud_cover]}
            condition |= {"filter": comparison, "filter_lang": "cql2-json"}
        search = pystac_client.ItemSearch(
            endpoint.url,
            method=method,
            limit=size,
            collections=None if endpoint.one_collection else self.collection,
            bbox=list(self.bbox),
            datetime=f"{_text(self.begin)}/{_text(self.end)}",
            **condition,
        )
        return Ask(endpoint.url, method, search.get_parameters())


def next_ask(page: Page, first: Ask) -> Ask | None:
    """The request for the page behind another, if it links one.

    Servers forget members of such links; what they forget is taken from the first request, which is the same search.

    Args:
        page: The page before.
        first: The request for the first page.
    """
    for link in _next_links(page.document):
        url = joined(page.url, link["href"])
        body = link.get("body")
        body = body if isinstance(body, dict) else {}
        if str(link.get("method") or "GET").upper() == "POST":
            whole = not link.get("merge") and not _SEARCHED_FOR.isdisjoint(body)
            if first.method == "GET":
                return Ask(url, "GET", {**_missing(url, first), **get_fields(body)})
            return Ask(url, "POST", body if whole else {**first.fields, **body})
        return Ask(url, "GET", _missing(url, first))
    return None


def turned(ask: Ask, first: Ask) -> Ask:
    """The same request by the other method; unchanged where its address does not hold what it should."""
    if ask.method == "POST":
        return Ask(ask.url, "GET", get_fields(ask.fields))
    try:
        return _posted(ask, first)
    except ValueError:
        return ask


def _posted(ask: Ask, first: Ask) -> Ask:
    parts = urlsplit(ask.url)
    fields: dict[str, Any] = {**first.fields, **dict(parse_qsl(parts.query)), **ask.fields}
    if isinstance(fields.get("limit"), str) and fields["limit"].isdecimal():
        fields["limit"] = int(fields["limit"])
    for name, whole in (("collections", str), ("ids", str), ("bbox", float)):
        if isinstance(fields.get(name), str):
            fields[name] = [whole(part) for part in fields[name].split(",")]
    for name in ("query", "filter"):
        if isinstance(fields.get(name), str) and fields[name].startswith("{"):
            fields[name] = json.loads(fields[name])
    return Ask(parts._replace(query="").geturl(), "POST", fields)


def further_asks(first: Ask, received: int, first_length: int) -> dict[str, Ask]:
    """Requests for what lies behind so many items, in the ways of servers that page without links."""
    values = {
        "offset": received,
        "startindex": received,
        "page": received // max(1, first_length) + 1,
        "token": received,
    }
    return {name: replace(first, fields={**first.fields, name: value}) for name, value in values.items()}


def _missing(url: str, first: Ask) -> dict[str, Any]:
    """What an address of a next page lacks of the search; nothing if it holds any of it."""
    parts = urlsplit(url)
    if parts.path.rstrip("/") != urlsplit(first.url).path.rstrip("/"):
        return {}
    given = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    if given & _SEARCHED_FOR:
        return {}
    return {name: value for name, value in get_fields(first.fields).items() if name not in given}


def _next_links(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    links = document.get("links")
    for link in links if isinstance(links, list) else ():
        if isinstance(link, dict) and link.get("rel") == "next" and isinstance(link.get("href"), str) and link["href"]:
            yield link


def _text(time: dt.datetime) -> str:
    # Whole seconds, because not every server reads fractions.
    return time.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"
