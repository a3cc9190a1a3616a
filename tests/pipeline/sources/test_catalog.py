"""Searches against a scripted STAC API, a real one (rustac) and static catalogs."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import shapely
from shapely.geometry import mapping

import pipeline.sources.api_negotiation as api_negotiation
import pipeline.sources.catalog as catalog
import pipeline.sources.http as pipeline_http
from pipeline.errors import BadInputError, CatalogError, NoScenesError, TooManyScenesError
from pipeline.records.region import Region
from pipeline.settings.run_file import SourceConfig
from pipeline.sources.catalog import SceneSearch, find_scenes, search_boxes
from pipeline.sources.http import PatientRetry, retry_policy
from tests.pipeline.loopback_server import Request, Response, json_response, serve
from tests.pipeline.tiny_scenes import LEFT, TOP, day, footprint_lonlat

PLACE = footprint_lonlat(32630, LEFT, TOP, 1280.0)
REGION = Region(PLACE.buffer(-0.001), ())


def item(day_of_june: int, **changes: Any) -> dict[str, Any]:
    """An item of Planetary Computer's manner, no files behind it."""
    identifier = changes.pop("id", f"S2A_MSIL2A_202606{day_of_june:02d}T103000_R137_T30UXB_x")
    properties = {
        "datetime": f"2026-06-{day_of_june:02d}T10:30:00Z",
        "proj:code": "EPSG:32630",
        "eo:cloud_cover": 10.0,
        "s2:processing_baseline": "05.11",
        **changes.pop("properties", {}),
    }
    keys = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12", "SCL")
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [],
        "id": identifier,
        "collection": "sentinel-2-l2a",
        "geometry": mapping(PLACE),
        "bbox": list(PLACE.bounds),
        "properties": {k: v for k, v in properties.items() if v is not None},
        "links": [],
        "assets": {key: {"href": f"https://data.test/{identifier}/{key}.tif"} for key in keys},
        **changes,
    }


class Api:
    """A STAC API that may page, forget to filter, fail a few times, or speak nonsense."""

    def __init__(self, items: list[Any], page: int = 100, fail: list[Response] | None = None) -> None:
        self.items, self.page, self.fail = items, page, fail or []
        self.conformance = ["core", "item-search", "ogcapi-features"]
        self.last_page_links_itself = False
        self.base = ""

    def __call__(self, request: Request) -> Response:
        self.base = f"http://{request.headers['Host']}"
        if self.fail and request.path == "/search":
            return self.fail.pop(0)
        if request.path == "/":
            return json_response(
                {
                    "type": "Catalog",
                    "stac_version": "1.0.0",
                    "id": "api",
                    "description": "scripted",
                    "conformsTo": [f"https://api.stacspec.org/v1.0.0/{c}" for c in self.conformance],
                    "links": [
                        {"rel": "self", "href": self.base},
                        {"rel": "root", "href": self.base},
                        {"rel": "search", "href": f"{self.base}/search", "method": "POST"},
                    ],
                }
            )
        if request.path == "/search":
            token = int((request.body or {}).get("token", 0))
            features = self.items[token : token + self.page]
            following = token + self.page
            links = []
            if following < len(self.items) or self.last_page_links_itself:
                following = following if following < len(self.items) else token
                links = [
                    {"rel": "next", "method": "POST", "merge": True, "href": f"{self.base}/search",
                     "body": {"token": following}}
                ]  # fmt: skip
            return json_response({"type": "FeatureCollection", "features": features, "links": links})
        return Response(404)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = retry_policy
    for module in (catalog, pipeline_http):
        monkeypatch.setattr(module, "retry_policy", lambda *_: policy(3, 0.01))


def search(url: str, start: str = "2026-06-01", end: str = "2026-06-30", **source: Any) -> SceneSearch:
    config = SourceConfig.model_validate({"provider": "planetary-computer", "url": url, **source})
    return find_scenes(config, REGION, day(start), day(end))


def ids(found: SceneSearch) -> list[str]:
    return [scene.id for scene in found.scenes]


def test_all_pages_are_read_by_post_and_sorted() -> None:
    items = [item(d) for d in (9, 3, 7, 1, 5)]
    with serve(Api(items, page=2)) as server:
        found = search(server.url)
        posts = [r for r in server.requests if r.path == "/search"]
    assert ids(found) == sorted(i["id"] for i in items)
    assert [r.method for r in posts] == ["POST"] * 3
    assert posts[0].body["collections"] == ["sentinel-2-l2a"]
    assert posts[0].body["datetime"] == "2026-06-01T00:00:00Z/2026-07-01T00:00:00Z"


def test_the_order_in_which_a_server_answers_does_not_matter() -> None:
    items = [item(d) for d in range(1, 6)]
    results = []
    for ordered in (items, items[::-1]):
        with serve(Api(ordered, page=2)) as server:
            results.append(search(server.url))
    assert results[0] == results[1]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_failing_post_is_repeated(status: int) -> None:
    with serve(Api([item(1)], fail=[Response(status), Response(status)])) as server:
        assert len(search(server.url).scenes) == 1
        assert len([r for r in server.requests if r.path == "/search"]) == 3


def test_a_broken_connection_is_repeated() -> None:
    with serve(Api([item(1)], fail=[Response(0), Response(0)])) as server:
        assert len(search(server.url).scenes) == 1


def test_a_server_that_stays_down_is_one_clear_error() -> None:
    down = [Response(503)] * 99
    with serve(Api([item(1)], fail=down)) as server, pytest.raises(CatalogError, match=r"search at .* failed"):
        search(server.url)
    with pytest.raises(CatalogError, match=r"127\.0\.0\.1"):
        search(server.url)


def test_retry_after_is_honoured_up_to_a_limit() -> None:
    class Fake:
        def __init__(self, value: str) -> None:
            self.headers = {"Retry-After": value}

    retry: Any = PatientRetry()
    assert retry.get_retry_after(Fake("7")) == 7
    assert retry.get_retry_after(Fake("86400")) == 60
    assert retry.get_retry_after(Fake("soon")) is None
    with serve(Api([item(1)], fail=[Response(429, b"", {"Retry-After": "1"})])) as server:
        began = time.monotonic()
        search(server.url)
        assert time.monotonic() - began >= 1.0


def test_what_a_server_fails_to_filter_is_dropped_here() -> None:
    elsewhere = shapely.box(20, 40, 21, 41)
    items = [
        item(1),
        item(2, properties={"eo:cloud_cover": 95.0}),
        item(3, geometry=mapping(elsewhere), bbox=list(elsewhere.bounds)),
        item(4, collection="sentinel-2-l1c"),
        item(5, properties={"datetime": "2026-07-01T00:00:00Z"}),
        item(6, properties={"datetime": "2026-05-31T23:59:59.999Z"}),
        item(1),
    ]
    with serve(Api(items, page=3)) as server:
        found = search(server.url)
    assert ids(found) == [items[0]["id"]]
    assert dict(found.dropped) == {
        "are cloudier than source.max_cloud_cover": 1,
        "do not touch the region": 1,
        "are of another collection": 1,
        "are outside the dates": 2,
    }


def test_days_are_inclusive_and_utc() -> None:
    items = [
        item(1, properties={"datetime": "2026-06-01T00:00:00Z"}),
        item(2, properties={"datetime": "2026-06-30T23:59:59.999Z"}),
        item(3, properties={"datetime": "2026-07-01T01:30:00+02:00"}),
        item(4, properties={"datetime": "2026-06-01T01:00:00+02:00"}),
    ]
    with serve(Api(items)) as server:
        assert len(search(server.url).scenes) == 3


def test_a_footprint_beside_the_region_is_dropped_even_if_the_boxes_overlap() -> None:
    west, south, east, north = PLACE.bounds
    triangle = shapely.Polygon([(west - 1, south - 1), (west - 1, north + 1), (east + 1, north + 1)])
    region = Region(shapely.box(east + 0.2, south - 0.9, east + 0.3, south - 0.8), ())
    with serve(Api([item(1, geometry=mapping(triangle), bbox=list(triangle.bounds))])) as server:
        config = SourceConfig.model_validate({"provider": "planetary-computer", "url": server.url})
        with pytest.raises(NoScenesError, match="1 do not touch the region"):
            find_scenes(config, region, day("2026-06-01"), day("2026-06-30"))


def test_an_item_without_cloud_cover_is_kept() -> None:
    with serve(Api([item(1, properties={"eo:cloud_cover": None})])) as server:
        assert search(server.url, max_cloud_cover=5).scenes[0].cloud_cover == 100.0


def test_cloud_cover_is_asked_of_servers_that_can_and_only_of_those() -> None:
    for conformance, member in ((["item-search#query"], "query"), (["item-search#filter"], "filter"), ([], None)):
        api = Api([item(1)])
        api.conformance += conformance
        with serve(api) as server:
            search(server.url, max_cloud_cover=40)
            body = next(r.body for r in server.requests if r.path == "/search")
        assert {"query", "filter"} & body.keys() == ({member} if member else set())
        if member == "query":
            assert body["query"] == {"eo:cloud_cover": {"lte": 40.0}}


def test_reprocessed_items_are_superseded_and_told() -> None:
    old = item(1, id="S2A_MSIL2A_20260601T103000_N0500_R137_T30UXB_a", properties={"s2:processing_baseline": "05.00"})
    new = item(1, id="S2A_MSIL2A_20260601T103000_N0511_R137_T30UXB_b")
    with serve(Api([old, new])) as server:
        found = search(server.url)
    assert ids(found) == [new["id"]]
    assert found.superseded[0][0] == old["id"]
    assert found.skipped == ()


def test_unusable_items_are_skipped_and_named() -> None:
    broken = item(2)
    del broken["assets"]["B11"]
    nonsense: list[Any] = [{"type": "Feature", "id": "x"}, {"type": "Feature", "id": None}, "text", None]
    with serve(Api([item(1), broken, *nonsense])) as server:
        found = search(server.url)
    assert len(found.scenes) == 1
    reasons = dict(found.skipped)
    assert "no asset for B11" in reasons[broken["id"]]
    assert "x" in reasons


def test_a_last_page_that_links_to_itself_ends_the_search() -> None:
    api = Api([item(d) for d in range(1, 6)], page=2)
    api.last_page_links_itself = True
    with serve(api) as server:
        assert len(search(server.url).scenes) == 5


def test_no_scenes_says_what_was_searched_and_what_to_widen() -> None:
    with serve(Api([])) as server, pytest.raises(NoScenesError) as caught:
        search(server.url)
    for words in (server.url, "2026-06-01 to 2026-06-30", "sentinel-2-l2a", "no items", "widen the dates"):
        assert words in str(caught.value)
    assert isinstance(caught.value, BadInputError)


def test_no_scenes_tells_a_silent_server_from_one_whose_items_were_dropped() -> None:
    cloudy = [item(d, properties={"eo:cloud_cover": 90.0}) for d in (1, 2, 3)]
    with serve(Api(cloudy)) as server, pytest.raises(NoScenesError) as caught:
        search(server.url, max_cloud_cover=20)
    assert "returned 3 items, of which 3 are cloudier than source.max_cloud_cover" in str(caught.value)
    assert "raise source.max_cloud_cover" in str(caught.value)
    bandless = item(1)
    del bandless["assets"]["B11"]
    with serve(Api([bandless])) as server, pytest.raises(NoScenesError, match=r"1 cannot be used .*no asset for B11"):
        search(server.url)


def test_too_many_scenes_say_what_to_narrow() -> None:
    with serve(Api([item(d) for d in range(1, 6)])) as server:
        assert len(search(server.url, max_scenes=5).scenes) == 5
        with pytest.raises(TooManyScenesError, match=r"5 scenes, more than source\.max_scenes = 4; narrow"):
            search(server.url, max_scenes=4)


@pytest.mark.parametrize("body", [b"<html>", b"[1, 2]", b'"x"', b"\xff\xfe"])
def test_an_answer_that_is_not_stac_is_one_error(body: bytes) -> None:
    with serve(lambda _: Response(200, body)) as server, pytest.raises(CatalogError, match=r"127\.0\.0\.1"):
        search(server.url)


def test_a_search_that_answers_with_something_else_is_one_error() -> None:
    with serve(Api([], fail=[json_response([1])])) as server, pytest.raises(CatalogError, match="search at"):
        search(server.url)


def test_the_generic_provider_needs_an_address() -> None:
    with pytest.raises(CatalogError, match=r"source\.url"):
        find_scenes(SourceConfig.model_validate({"provider": "generic"}), REGION, day("2026-06-01"), day("2026-06-02"))


def test_a_remote_api_may_not_hand_out_local_files(monkeypatch: pytest.MonkeyPatch) -> None:
    local = item(1)
    local["assets"]["B02"]["href"] = "file:///etc/B02.tif"
    monkeypatch.setattr(catalog.hrefs, "is_local_source", lambda _: False)
    with serve(Api([item(2), local])) as server:
        found = search(server.url)
    assert len(found.scenes) == 1
    assert "remote catalog names the local file" in found.skipped[0][1]


def test_a_region_over_the_antimeridian_is_searched_on_both_sides() -> None:
    both = shapely.MultiPolygon([shapely.box(179.5, -17, 180, -16), shapely.box(-180, -17, -179.8, -16)])
    assert search_boxes(Region(both, ())) == ((-180, -17, -179.8, -16), (179.5, -17, 180, -16))
    assert search_boxes(Region(both.geoms[0], ())) == ((179.5, -17, 180, -16),)


@pytest.fixture
def rustac_api(tmp_path: Path) -> Iterator[str]:
    """The real STAC API of the rustac package, on a free loopback port."""
    items = [item(d) for d in range(1, 26)]
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    program = Path(sys.executable).parent / "rustac"
    command = [str(program), "serve", "--create-collections", "--addr", address, str(tmp_path / "items.json")]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://{address}/", timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"http://{address}"
    finally:
        server.kill()
        server.wait()


def test_a_real_stac_api_is_searched_with_paging(rustac_api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_negotiation, "PAGE_SIZE", 4)
    found = search(rustac_api, "2026-06-05", "2026-06-20")
    assert [scene.datetime.day for scene in found.scenes] == list(range(5, 21))
    assert found.scenes[0].self_href == f"{rustac_api}/collections/sentinel-2-l2a/items/{found.scenes[0].id}"


def test_the_last_day_there_is_can_be_searched() -> None:
    with serve(Api([item(1)])) as server:
        assert len(search(server.url, end="9999-12-31").scenes) == 1
