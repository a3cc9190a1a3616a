"""Real servers that redirect, link elsewhere, answer with bombs, or hide behind names: none leads beyond the door."""

from __future__ import annotations

import functools
import gzip
import json
import socket
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

import pipeline.sources.catalog as catalog
import pipeline.sources.http as pipeline_http
from pipeline.errors import BadInputError, CatalogError, HrefError, NoScenesError
from pipeline.settings.run_file import SourceConfig
from pipeline.sources.catalog import SceneSearch, find_scenes
from pipeline.sources.hrefs import AssetDoor, CatalogDoor, Door
from pipeline.sources.http import get_json, retry_policy, session
from pipeline.sources.united import unite
from tests.pipeline.loopback_server import Request, Response, json_response, serve
from tests.pipeline.sources.test_catalog import REGION, Api, item
from tests.pipeline.tiny_scenes import day


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = retry_policy
    for module in (catalog, pipeline_http):
        monkeypatch.setattr(module, "retry_policy", lambda *_: policy(1, 0.01))


def search(url: str, **source: Any) -> SceneSearch:
    config = SourceConfig.model_validate({"provider": "planetary-computer", "url": url, **source})
    return find_scenes(config, REGION, day("2026-06-01"), day("2026-06-30"))


def redirect(target: str, status: int = 302) -> Response:
    return Response(status, b"moved", {"Location": target})


def catalog_of(*hrefs: str, rel: str = "item") -> dict[str, Any]:
    links = [{"rel": rel, "href": href} for href in hrefs]
    return {"type": "Catalog", "stac_version": "1.1.0", "id": "c", "description": "d", "links": links}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_catalog_is_not_redirected_to_another_server(status: int) -> None:
    with serve(lambda _: json_response(item(1))) as other:
        with (
            serve(lambda _: redirect(f"{other.url}/item.json", status)) as server,
            pytest.raises(CatalogError, match="on another server than"),
        ):
            search(f"{server.url}/catalog.json")
        assert other.requests == []


def test_a_catalog_may_be_redirected_on_its_own_server_and_to_a_root() -> None:
    def answer(request: Request) -> Response:
        return redirect("/new/catalog.json") if request.path == "/catalog.json" else json_response(item(1))

    with serve(answer) as server:
        assert len(search(f"{server.url}/catalog.json").scenes) == 1
    with (
        serve(lambda _: json_response(item(1))) as other,
        serve(lambda _: redirect(f"{other.url}/mirror/item.json")) as server,
        session(CatalogDoor(f"{server.url}/catalog.json", (f"{other.url}/mirror",))) as http,
    ):
        assert get_json(http, f"{server.url}/catalog.json")["type"] == "Feature"


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "javascript:alert(1)", "http://[", "//"])
def test_a_redirect_to_what_is_no_web_address_is_one_error(target: str) -> None:
    with serve(lambda _: redirect(target)) as server, pytest.raises(CatalogError, match=r"127\.0\.0\.1"):
        search(f"{server.url}/catalog.json")


def test_a_circle_of_redirects_ends() -> None:
    with serve(lambda r: redirect("/b" if r.path == "/a" else "/a")) as server, pytest.raises(CatalogError):
        search(f"{server.url}/a")
    assert len(server.requests) < 30


@pytest.mark.parametrize("rel", ["item", "child", "items"])
def test_links_to_other_servers_are_told_and_not_followed(rel: str) -> None:
    with serve(lambda _: json_response(item(2))) as other:
        hrefs = (f"{other.url}/item.json", f"//127.0.0.1:{other.url.rpartition(':')[2]}/x.json", "javascript:alert(1)")

        def answer(request: Request) -> Response:
            return json_response(
                item(1) if request.path == "/1.json" else catalog_of(*hrefs, "data:x", "1.json", rel=rel)
            )

        with serve(answer) as server:
            found = search(f"{server.url}/catalog.json")
        assert other.requests == []
    assert len(found.scenes) == 1
    assert len(found.skipped) == 4
    assert all("not followed" in reason for _, reason in found.skipped)
    assert "source.allowed_roots" in "".join(reason for _, reason in found.skipped)


def test_a_local_catalog_reaches_no_server_that_the_run_file_does_not_name(tmp_path: Path) -> None:
    with serve(lambda _: json_response(item(1))) as server:
        (tmp_path / "catalog.json").write_text(json.dumps(catalog_of(f"{server.url}/item.json")))
        with pytest.raises(NoScenesError, match="not followed"):
            search(str(tmp_path / "catalog.json"))
        assert server.requests == []


def test_a_local_catalogs_items_may_not_name_servers_of_this_machine(tmp_path: Path) -> None:
    made = item(1)
    made["assets"]["B02"]["href"] = "http://127.0.0.1:9/B02.tif"
    (tmp_path / "item.json").write_text(json.dumps(made))
    with pytest.raises(NoScenesError, match=r"asset B02.*the run file does not name"):
        search(str(tmp_path / "item.json"))


class ElsewhereApi(Api):
    """A STAC API whose pages, or whose search, are on another server."""

    def __init__(self, items: list[Any], other: str, member: str) -> None:
        super().__init__(items, page=1)
        self.other, self.member = other, member

    def __call__(self, request: Request) -> Response:
        response = super().__call__(request)
        document = json.loads(response.body)
        for link in document.get("links", ()):
            if link["rel"] == self.member:
                link |= {"href": f"{self.other}{request.path}", "type": "application/geo+json"}
        return json_response(document)


@pytest.mark.parametrize("member", ["next", "search"])
def test_an_api_does_not_lead_to_another_server(member: str) -> None:
    with serve(Api([item(3)])) as other:
        with (
            serve(ElsewhereApi([item(1), item(2)], other.url, member)) as server,
            pytest.raises(CatalogError, match="on another server than"),
        ):
            search(server.url)
        assert other.requests == []


def test_an_api_does_not_lead_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "page.json").write_text(json.dumps({"type": "FeatureCollection", "features": [item(9)]}))
    for prefix in ("file://", ""):
        api = ElsewhereApi([item(1), item(2)], f"{prefix}{tmp_path}/page.json?", "next")
        with serve(api) as server, pytest.raises(CatalogError, match="search at"):
            search(server.url)


def _gzip(size: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packer.compress(b" " * (1 << 20)) for _ in range(size >> 20)) + packer.flush()


@functools.cache
def _bombs() -> list[tuple[bytes, dict[str, str]]]:
    bomb = _gzip(40 << 20)
    return [
        (bomb, {"Content-Encoding": "gzip"}),
        (gzip.compress(bomb), {"Content-Encoding": "gzip, gzip"}),
        (b" " * (3 << 20), {}),
    ]


@pytest.mark.parametrize(
    ("kind", "place"),
    [(0, "root"), (1, "root"), (2, "root"), (0, "search"), (1, "search"), (0, "redirect"), (0, "error")],
)
def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch, kind: int, place: str) -> None:
    monkeypatch.setattr(pipeline_http, "MAX_DOCUMENT_BYTES", 1 << 20)
    body, headers = _bombs()[kind]
    api = Api([item(1)])

    def answer(request: Request) -> Response:
        if place == "redirect" and request.path == "/":
            return Response(302, body, {**headers, "Location": "/"})
        if place == "root" or (place in ("search", "error") and request.path == "/search"):
            return Response(400 if place == "error" else 200, body, headers)
        return api(request)

    with serve(answer) as server, pytest.raises(CatalogError, match=r"longer than|within compression|HTTP 400"):
        search(server.url)


@pytest.mark.parametrize("status", [404, 410])
def test_a_catalog_that_is_not_there_is_bad_input_that_names_the_address(status: int, tmp_path: Path) -> None:
    with serve(lambda _: Response(status)) as server, pytest.raises(BadInputError) as caught:
        search(f"{server.url}/catalog.json?token=hush")
    assert f"{server.url}/catalog.json cannot be read: HTTP {status}" in str(caught.value)
    assert "check source.url" in str(caught.value)
    assert "hush" not in str(caught.value)
    for place in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(BadInputError, match=r"source\.url"):
            search(str(place))


def test_a_search_that_is_not_there_names_its_address() -> None:
    api = Api([item(1)])
    with (
        serve(lambda r: Response(404) if r.path == "/search" else api(r)) as server,
        pytest.raises(CatalogError, match=r"HTTP 404 at '.*/search': there is nothing .* check source.url"),
    ):
        search(server.url)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Host name → addresses, one list after the other: a name server that belongs to somebody else."""
    table: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host in table:
            answers = table[host]
            host = answers.pop(0) if len(answers) > 1 else answers[0]
        return real(host, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return table


ASSETS: Callable[..., AssetDoor] = lambda *hosts: AssetDoor(("http", "https"), (), hosts, False)  # noqa: E731


@pytest.mark.parametrize(
    "door", [ASSETS(), CatalogDoor("http://data.example/", ("http://inner.example/",)), ASSETS("b")]
)
def test_a_name_that_resolves_to_this_machine_is_not_connected_to(names: dict[str, list[str]], door: Door) -> None:
    names["other.example"] = names["data.example"] = ["127.0.0.1"]
    with serve(lambda _: json_response({})) as server:
        port = server.url.rpartition(":")[2]
        with session(door) as http, pytest.raises(HrefError):
            get_json(http, f"http://other.example:{port}/x.json")
        assert server.requests == []


def test_a_host_that_the_run_file_names_may_be_private(names: dict[str, list[str]]) -> None:
    names["stac.intern.example"] = ["127.0.0.1"]
    with serve(lambda _: json_response({"a": 1})) as server:
        url = f"http://stac.intern.example:{server.url.rpartition(':')[2]}/x.json"
        for door in (ASSETS("stac.intern.example"), CatalogDoor(url)):
            with session(door) as http:
                assert get_json(http, url) == {"a": 1}
        assert server.requests[0].headers["Host"].startswith("stac.intern.example:")


def test_a_name_is_resolved_once_per_connection(names: dict[str, list[str]]) -> None:
    """The address that was checked is the one that is connected to, whatever the name resolves to a moment later."""
    names["data.example"] = ["8.8.8.8", "127.0.0.1"]
    asked: list[str] = []

    class Watched(AssetDoor):
        def check_address(self, host: str, address: str) -> None:
            asked.append(address)
            super().check_address(host, address)

    with serve(lambda _: json_response({})) as server:
        door = Watched(("http",), (), (), False)
        with session(door, retry_policy(0)) as http, pytest.raises((HrefError, requests.RequestException)):
            http.get(f"http://data.example:{server.url.rpartition(':')[2]}/x.json", timeout=0.3)
        assert asked[0] == "8.8.8.8"
        assert server.requests == []


def test_the_password_of_a_catalog_goes_to_its_own_server_and_into_no_href() -> None:
    with serve(lambda r: json_response(item(1) if r.path == "/1.json" else catalog_of("1.json"))) as server:
        address = server.url.removeprefix("http://")
        found = search(f"http://user:hush@{address}/catalog.json")
        assert {r.headers.get("Authorization", "")[:6] for r in server.requests} == {"Basic "}
    assert "hush" not in repr(found)


NASTY: list[Any] = [
    *(float("inf"), float("-inf"), float("nan"), 10**400, -(10**400), 1e308, "", "x", "\x00", [], {}, None, True),
    *(
        [float("inf"), 1],
        [10**400, 1],
        ["x", None],
        [[[]]],
        {"a": 1},
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23",
    ),
    *("EPSG:" + "9" * 30, "javascript:alert(1)", "/x\x00.tif", "http://[", "\ud800"),
]


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, member in members for place in _places(member, (*path, key)))]


def test_one_bad_item_costs_itself_only() -> None:
    """Every member of an item replaced by every nasty value: the search goes on, with the other item."""
    made = item(2, properties={"s2:mgrs_tile": "30UXB", "created": "2026-06-02T00:00:00Z", "proj:shape": [16, 16]})
    made["links"] = [{"rel": "self", "href": "https://stac.example/i.json"}]
    for asset in made["assets"]:
        if asset not in ("B02", "SCL"):
            made["assets"][asset] = {"href": made["assets"][asset]["href"]}
    places = [
        p for p in _places(made) if p and p[0] != "type" and not (p[0] == "assets" and len(p) > 1 and p[1] > "B03")
    ]
    bad = []
    for number, (place, value) in enumerate((p, v) for p in places for v in NASTY):
        copy = json.loads(json.dumps(made))
        copy["id"] = f"bad-{number}"
        target = copy
        for key in place[:-1]:
            target = target[key]
        target[place[-1]] = value
        bad.append(copy)
    config = SourceConfig.model_validate({"provider": "planetary-computer", "url": "/data/c.json", "max_scenes": 10**6})
    good = item(1)
    found = catalog.ItemSearch(
        tuple(catalog.FoundItem(i, "/data/c/i.json") for i in [good, *bad]), (), (), 1, "x", None
    )
    problems: list[tuple[str, str]] = []
    matched, _ = catalog._recheck(found.items, None, REGION, day("2026-06-01"), day("2026-06-30"), 100.0, problems)
    assert matched[0].item is good
    for candidate in matched:
        door = catalog.asset_door(config)
        try:
            scene = catalog.normalise_item(candidate.item, "planetary-computer", source=config, door=door)
        except catalog.SceneError:
            continue
        json.dumps(scene.to_dict(), allow_nan=False)
        assert scene.self_href is None or scene.self_href.startswith("https://")
    offers = [catalog._offer(candidate, config, catalog.asset_door(config)) for candidate in matched]
    united = unite([offers, offers[::2]])
    assert len(united.scenes) + len(united.unusable) + len(united.superseded) >= len(offers)
