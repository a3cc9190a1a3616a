"""Where a STAC API is, from an address that may be its root, its search or one of its collections."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urljoin, urlsplit

import requests

from pipeline.errors import CatalogError
from pipeline.sources import hrefs
from pipeline.sources.static_catalog import read_document

_BELOW_ROOT = re.compile(
    r"(?P<root>.*?)/(?:collections(?:/(?P<collection>[^/]+)(?:/items)?)?|search|conformance|queryables|api\.html)/*",
    re.DOTALL,
)
_SEARCH_FIELDS = {
    "collections",
    "ids",
    "bbox",
    "datetime",
    "intersects",
    "limit",
    "token",
    "page",
    "offset",
    "query",
} | {*("filter", "filter-lang", "sortby", "fields", "f")}


@dataclass(frozen=True)
class Endpoint:
    """An address that answers searches."""

    url: str
    methods: tuple[str, ...]
    """In the order in which they are tried."""
    one_collection: bool = False
    """Items of one collection (OGC API - Features): it is named by the address."""


@dataclass(frozen=True)
class Api:
    """A STAC API."""

    root: str
    document: Mapping[str, Any]
    """Its landing page; empty where there is none."""
    collection: str | None = None
    """The collection that the address of the run file names."""
    items_url: str | None = None
    """Where that collection says that its items are."""

    def endpoints(self, collection: str | None) -> tuple[Endpoint, ...]:
        """Addresses that may answer a search, the likeliest first."""
        methods: dict[str, list[str | None]] = {}
        for link in _links(self.document, "search"):
            kind = str(link.get("type") or "").lower()
            if "html" in kind or "opensearch" in kind:  # for people
                continue
            url = joined(self.root, link["href"])
            method = link.get("method")
            methods.setdefault(url, []).append(method.upper() if isinstance(method, str) else None)
        found = [Endpoint(url, _order(declared)) for url, declared in methods.items()]
        own = _below(self.root, "search")
        if self.document and own not in methods:
            found.append(Endpoint(own, ("POST", "GET")))
        if collection is not None and self.document:
            items = _below(self.root, f"collections/{quote(collection, safe='')}/items")
            found.append(Endpoint(items, ("GET",), one_collection=True))
        if self.items_url is not None:
            found.append(Endpoint(self.items_url, ("GET",), one_collection=True))
        return tuple(found)

    def conforms_to(self, part: str) -> bool:
        """True if the API says that it has a part of the item search, such as ``query``."""
        classes = self.document.get("conformsTo")
        return any(f"item-search#{part}" in str(c) for c in (classes if isinstance(classes, list) else ()))


def open_catalog(url: str, session: requests.Session) -> tuple[Api | None, Any]:
    """The API at an address, or the document there.

    Args:
        url: URL or path as in the run file.
        session: For remote documents.

    Returns:
        The API and its landing page, or None and the document.

    Raises:
        CatalogError: There is nothing that can be read.
    """
    for root, collection in _roots_above(url):
        try:
            document = read_document(root, session)
        except CatalogError:
            continue
        if is_api(document):
            return Api(root, document, collection), document
    document = read_document(url, session)
    if is_api(document):
        return Api(url, document), document
    return _api_of_collection(url, document, session), document


def is_api(document: Any) -> bool:
    """True for the landing page of an API."""
    if not isinstance(document, dict) or document.get("type") in ("Collection", "FeatureCollection", "Feature"):
        return False
    return "conformsTo" in document or any(True for _ in _links(document, "search"))


def joined(base: str, href: str) -> str:
    """An address as a link of a document names it; what is no address stays what it is, and no door lets it pass.

    A server behind an encrypting proxy may not know that it is: its ``http`` is the ``https`` by which it was asked.
    """
    try:
        url = urljoin(base, href)
        here, there = urlsplit(base), urlsplit(url)
        if (here.scheme, there.scheme) == ("https", "http") and here.hostname == there.hostname:
            return there._replace(scheme="https", netloc=here.netloc.rpartition("@")[2]).geturl()
    except ValueError:
        return href
    return url


def _api_of_collection(url: str, document: Any, session: requests.Session) -> Api | None:
    """An API's collection links its items as one list; that of a static catalog links each."""
    if not isinstance(document, dict) or document.get("type") != "Collection" or hrefs.local_path(url) is not None:
        return None
    identifier = document.get("id")
    items = next((joined(url, link["href"]) for link in _links(document, "items")), None)
    if (
        items is None
        or not isinstance(identifier, str)
        or re.search(r"\.(json|geojson|parquet|ndjson)$", urlsplit(items).path)
    ):
        return None
    for link in _links(document, "root"):
        root = joined(url, link["href"])
        try:
            landing = read_document(root, session)
        except CatalogError:
            continue
        if is_api(landing):
            return Api(root, landing, identifier)
    return Api(url, {}, identifier, items)


def _roots_above(url: str) -> Iterator[tuple[str, str | None]]:
    if hrefs.local_path(url) is not None:
        return
    parts = urlsplit(url)
    found = _BELOW_ROOT.fullmatch(parts.path)
    if found is None:
        return
    fields = parse_qsl(parts.query, keep_blank_values=True)
    named = dict(fields).get("collections") or None
    collection = unquote(found["collection"]) if found["collection"] else named
    # What is no part of a search may be a key.
    kept = [(name, value) for name, value in fields if name not in _SEARCH_FIELDS]
    root = parts._replace(path=found["root"] or "/", query=urlencode(kept), fragment="")
    yield root.geturl(), None if collection and "," in collection else collection


def _order(declared: list[str | None]) -> tuple[str, ...]:
    if "POST" in declared or None in declared:
        return ("POST", "GET")
    return ("GET", "POST")


def _links(document: Mapping[str, Any], rel: str) -> Iterator[Mapping[str, Any]]:
    links = document.get("links")
    for link in links if isinstance(links, list) else ():
        if isinstance(link, dict) and link.get("rel") == rel and isinstance(link.get("href"), str) and link["href"]:
            yield link


def _below(root: str, path: str) -> str:
    parts: SplitResult = urlsplit(root)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{path}", fragment="").geturl()
