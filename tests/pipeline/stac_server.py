"""A STAC API on loopback with the manners of servers in the field. Test support, not a test."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import shapely
from shapely.geometry import shape

from pipeline.sources.items import parse_datetime
from tests.pipeline.loopback_server import Request, Response, json_response

Item = dict[str, Any]


@dataclass(frozen=True)
class Manners:
    """How a server behaves; the default is a good server."""

    default_page: int = 10
    max_page: int = 10_000
    too_large: Response | None = None
    """The answer to a page of more than ``max_page`` items; None: the page is cut without a word."""
    methods: tuple[str, ...] = ("GET", "POST")
    """Those that work."""
    declared: tuple[str | None, ...] = ("GET", "POST")
    """Those of the search links; None is a link without a method."""
    refusal: int = 405
    """Status for other methods."""
    link: str = "merge"
    """The link to the next page: merge, body, token, get, get-token, relative, no-method, none, broken, deaf (the token
    is not heard), self (the last page links itself) or circle (it links the first)."""
    count: str | None = "numberMatched"
    """numberMatched, context, text (a number as text), whole (whatever is searched), page (of the page)."""
    ignores: tuple[str, ...] = ()
    """Fields that are not heard: datetime, bbox, collections."""
    unlinked: str | None = None
    """A field by which pages can be asked for without a link: offset, startindex, page, token."""
    overlap: int = 0
    """So many items of a page are on the next one again."""
    empty_between: bool = False
    """An empty page with a link stands between any two."""
    conformance: tuple[str, ...] = ()
    """Parts of the item search: query, filter."""
    refuses: tuple[str, ...] = ()
    """Fields that are answered with 400."""
    fails_after: int | None = None
    """So many searches are answered, then none."""
    search: bool = True
    """There is a search; else only the items of each collection."""


class StacServer:
    """Answers as a STAC API over a list of items."""

    def __init__(self, items: list[Item], manners: Manners | None = None, **changes: Any) -> None:
        self.items = items
        self.manners = dataclasses.replace(manners or Manners(), **changes)
        self.answered = 0

    def __call__(self, request: Request) -> Response:
        base = f"http://{request.headers['Host']}/v1"
        path = request.path.removeprefix("/v1").rstrip("/")
        if not request.path.startswith("/v1"):
            return json_response({"code": "NotFound"}, 404)
        if path == "":
            return json_response(self._landing(base))
        if path == "/collections/sentinel-2-l2a":
            return json_response(_collection(base))
        if path == "/collections/sentinel-2-l2a/items" and request.method == "GET":
            return self._search(request, base + path, {"collections": "sentinel-2-l2a"})
        if path == "/search" and self.manners.search:
            return self._search(request, base + path, {})
        return json_response({"code": "NotFound"}, 404)

    def _landing(self, base: str) -> Item:
        links: list[Item] = [{"rel": "self", "href": base}, {"rel": "root", "href": base}]
        for method in self.manners.declared if self.manners.search else ():
            link = {"rel": "search", "type": "application/geo+json", "href": f"{base}/search"}
            links.append(link if method is None else {**link, "method": method})
        conforms = ["core", "item-search", *(f"item-search#{part}" for part in self.manners.conformance)]
        return {
            "type": "Catalog",
            "stac_version": "1.0.0",
            "id": "api",
            "description": "scripted",
            "conformsTo": [f"https://api.stacspec.org/v1.0.0/{part}" for part in conforms],
            "links": links,
        }

    def _search(self, request: Request, url: str, fixed: Item) -> Response:
        manners = self.manners
        if request.method not in manners.methods:
            return json_response({"detail": "Method Not Allowed"}, manners.refusal)
        asked = (request.body or {}) if request.method == "POST" else {k: v[0] for k, v in request.query.items()}
        refused = [name for name in manners.refuses if name in asked]
        if refused:
            return json_response({"code": "BadRequest", "description": f"{refused[0]} is not supported"}, 400)
        self.answered += 1
        if manners.fails_after is not None and self.answered > manners.fails_after:
            return Response(0)
        size = int(asked.get("limit", manners.default_page))
        if size > manners.max_page and manners.too_large is not None:
            return manners.too_large
        size = min(size, manners.max_page)
        matching = [item for item in self.items if self._matches(item, {**asked, **fixed})]
        start = 0 if manners.link == "deaf" else self._start(asked, size)
        hidden = manners.empty_between and str(asked.get("token", "")).endswith("e")
        page = [] if hidden else matching[start : start + size]
        document: Item = {"type": "FeatureCollection", "features": page, "numberReturned": len(page)}
        document["links"] = self._next(asked, request.method, url, start, size, len(matching), hidden)
        document |= self._counted(len(matching), len(page))
        return json_response(document)

    def _start(self, asked: Item, size: int) -> int:
        if "token" in asked and (self.manners.link != "none" or self.manners.unlinked == "token"):
            return int(str(asked["token"]).removesuffix("e"))
        way = self.manners.unlinked
        if way is None or way not in asked:
            return 0
        return (int(asked[way]) - 1) * size if way == "page" else int(asked[way])

    def _matches(self, item: Item, asked: Item) -> bool:
        ignores = self.manners.ignores
        collections = asked.get("collections", [])
        collections = collections.split(",") if isinstance(collections, str) else collections
        if collections and "collections" not in ignores and item["collection"] not in collections:
            return False
        if "datetime" in asked and "datetime" not in ignores:
            begin, end = (parse_datetime(text) for text in asked["datetime"].split("/"))
            if not begin <= parse_datetime(item["properties"]["datetime"]) <= end:
                return False
        if "bbox" in asked and "bbox" not in ignores:
            box = asked["bbox"].split(",") if isinstance(asked["bbox"], str) else asked["bbox"]
            if not shape(item["geometry"]).intersects(shapely.box(*map(float, box))):
                return False
        cloud = item["properties"].get("eo:cloud_cover")
        limit = _cloud_limit(asked)
        # As in a database, what is not there is not below any limit.
        return limit is None or (cloud is not None and cloud <= limit)

    def _next(
        self, asked: Item, method: str, url: str, start: int, size: int, matching: int, hidden: bool
    ) -> list[Item]:
        link = self.manners.link
        following = start + size - (0 if hidden else min(self.manners.overlap, size - 1))
        token = str(start if hidden else following)
        if hidden:
            following = start
        elif self.manners.empty_between:
            token += "e"
        if start + size >= matching and not hidden:
            if link not in ("self", "circle", "deaf"):
                return []
            token = {"self": str(start), "circle": "0", "deaf": str(self.answered)}[link]
        if link == "deaf":
            token = str(self.answered)
        if link == "none":
            return []
        if link == "broken":
            return [{"rel": "next", "href": f"{url}/nowhere?token={token}"}]
        if method == "POST" and link not in ("get", "get-token", "relative"):
            found: Item = {"rel": "next", "href": url, "method": "POST"}
            if link == "no-method":
                del found["method"]
                return [{**found, "href": f"{url}?token={token}"}]
            if link == "body":
                return [{**found, "body": {**asked, "token": token}}]
            return [{**found, "body": {"token": token}, **({} if link == "token" else {"merge": True})}]
        fields = {} if link == "get-token" else {k: _text(v) for k, v in asked.items()}
        query = urlencode({**fields, "token": token})
        return [{"rel": "next", "href": f"?{query}" if link == "relative" else f"{url}?{query}"}]

    def _counted(self, matching: int, page: int) -> Item:
        return {
            "numberMatched": {"numberMatched": matching},
            "text": {"numberMatched": str(matching)},
            "context": {"context": {"matched": matching, "returned": page}},
            "whole": {"numberMatched": len(self.items) + 1000},
            "page": {"numberMatched": page},
        }.get(self.manners.count or "", {})


def _collection(base: str) -> Item:
    url = f"{base}/collections/sentinel-2-l2a"
    return {
        "type": "Collection",
        "id": "sentinel-2-l2a",
        "stac_version": "1.0.0",
        "description": "scripted",
        "license": "other",
        "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}},
        "links": [
            {"rel": "self", "href": url},
            {"rel": "items", "href": f"{url}/items"},
            {"rel": "root", "href": base},
        ],
    }


def _cloud_limit(asked: Item) -> float | None:
    if "query" in asked:
        query = json.loads(asked["query"]) if isinstance(asked["query"], str) else asked["query"]
        return float(query["eo:cloud_cover"]["lte"])
    if "filter" in asked:
        found = asked["filter"]
        return float(found.split("<=")[1]) if isinstance(found, str) else float(found["args"][1])
    return None


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return json.dumps(value) if isinstance(value, dict) else value


def at_times(item: Item, count: int, first: dt.datetime, last: dt.datetime) -> list[Item]:
    """So many copies of an item, each with an id and a time of its own, evenly from the first time to the last."""
    step = (last - first) / max(1, count - 1)
    made = []
    for n in range(count):
        time = (first + n * step).replace(microsecond=0)
        properties = {**item["properties"], "datetime": f"{time:%Y-%m-%dT%H:%M:%SZ}"}
        made.append({**item, "id": f"{item['id']}_{n:04d}", "properties": properties})
    return made
