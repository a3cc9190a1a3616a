"""A search of a STAC API is complete, whatever the server's manners, or ends in one sentence that names what lacks."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pipeline.sources.http as pipeline_http
from pipeline.commands import screens
from pipeline.errors import CatalogError, IncompleteSearchError, NoScenesError
from pipeline.settings.run_file import SourceConfig
from pipeline.sources import api_negotiation
from pipeline.sources.catalog import ItemSearch, find_items, find_scenes
from pipeline.sources.completeness import Completeness, together
from pipeline.sources.http import retry_policy
from tests.pipeline.loopback_server import Request, Response, Server, json_response, serve
from tests.pipeline.sources.test_catalog import REGION, item
from tests.pipeline.stac_server import Manners, StacServer, at_times
from tests.pipeline.tiny_scenes import day

JUNE = (dt.datetime(2026, 6, 1, 1, tzinfo=dt.UTC), dt.datetime(2026, 6, 30, 20, tzinfo=dt.UTC))
ITEMS = at_times(item(1), 57, *JUNE)
ELSEWHEN = at_times(item(1, id="S2A_T30UXB_before"), 40, *(time - dt.timedelta(days=90) for time in JUNE))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = retry_policy
    monkeypatch.setattr(pipeline_http, "retry_policy", lambda *_: policy(2, 0.01))


def find(url: str, **source: Any) -> ItemSearch:
    config = SourceConfig.model_validate({"provider": "planetary-computer", "url": url, **source})
    return find_items(config, REGION, day("2026-06-01"), day("2026-06-30"))


def found_ids(search: ItemSearch) -> list[str]:
    return sorted(found.item["id"] for found in search.items)


def searches(server: Server) -> list[Request]:
    return [r for r in server.requests if r.path.endswith(("/search", "/items"))]


def expected(items: list[dict[str, Any]] = ITEMS) -> list[str]:
    return sorted(i["id"] for i in items)


def error(status: int, **document: Any) -> Response:
    return json_response(document, status)


TOO_LARGE = {
    "bad gateway": error(502, message="Internal server error"),
    "gateway timeout": error(504, message="Endpoint request timed out"),
    "server error": error(500, message="Internal server error"),
    "unavailable": error(503),
    "request too long": error(413, message="Request Too Long"),
    "limit named": error(400, code="InvalidParameterValue", description="limit must be <= 20"),
    "limit validated": error(422, detail=[{"loc": ["body", "limit"], "msg": "ensure this value is less than 21"}]),
    "cut short": Response(200, b'{"type": "FeatureCollection", "features": [{"id": "a", "pro'),
    "refused without a word": Response(400),
    "nothing": Response(200, b""),
    "a page of a proxy": Response(200, b"<html>timeout</html>"),
    "broken connection": Response(0),
}

COMPLETE = {
    "good": Manners(),
    "counts in context": Manners(count="context", max_page=20),
    "counts as text": Manners(count="text", max_page=20),
    "no count": Manners(count=None, max_page=20),
    "count of all that there is": Manners(count="whole", max_page=20),
    "count of the page": Manners(count="page", max_page=20),
    "body in full": Manners(link="body", max_page=20),
    "token alone, merge forgotten": Manners(link="token", max_page=20),
    "next by GET": Manners(link="get", max_page=20),
    "next by GET, the search forgotten": Manners(link="get-token", max_page=20),
    "next relative": Manners(link="relative", max_page=20),
    "next without its method, POST only": Manners(link="no-method", max_page=20, methods=("POST",), declared=("POST",)),
    "last page links itself": Manners(link="self", max_page=20),
    "last page links the first": Manners(link="circle", max_page=20),
    "empty pages between": Manners(empty_between=True, max_page=20),
    "repeats": Manners(overlap=3, max_page=20),
    "repeats, no count": Manners(overlap=3, max_page=20, count=None),
    "GET only and said": Manners(methods=("GET",), declared=("GET",), max_page=20),
    "GET only, next by POST": Manners(methods=("GET",), declared=("GET",), link="body", max_page=20),
    "GET only, not said": Manners(methods=("GET",), declared=(None,), max_page=20),
    "GET only, POST not implemented": Manners(methods=("GET",), refusal=501, max_page=20),
    "GET only, POST forbidden": Manners(methods=("GET",), refusal=403, max_page=20),
    "GET only, POST unknown": Manners(methods=("GET",), refusal=404, max_page=20),
    "POST only, GET said": Manners(methods=("POST",), declared=("GET",), max_page=20),
    "no link, offset": Manners(link="none", unlinked="offset", max_page=20),
    "no link, offset, dates not heard": Manners(link="none", unlinked="offset", max_page=20, ignores=("datetime",)),
    "no link, startindex": Manners(link="none", unlinked="startindex", max_page=20, methods=("GET",)),
    "no link, page": Manners(link="none", unlinked="page", max_page=20),
    "no link, token": Manners(link="none", unlinked="token", max_page=20),
    "no link": Manners(link="none", max_page=20),
    "no link, no count": Manners(link="none", max_page=20, count=None),
    "no link, no count, seven in a page": Manners(link="none", max_page=7, count=None),
    "no link, few in a page": Manners(link="none", max_page=3),
    "broken link": Manners(link="broken", max_page=20),
    "token not heard": Manners(link="deaf", max_page=20),
    "token not heard, no count": Manners(link="deaf", max_page=20, count=None),
    "dates not heard": Manners(ignores=("datetime",), max_page=20),
    "nothing heard": Manners(ignores=("datetime", "bbox", "collections"), max_page=20),
    "no search, only items of collections": Manners(search=False, max_page=20),
    **{f"large page: {name}": Manners(max_page=20, too_large=answer) for name, answer in TOO_LARGE.items()},
    "large page, one only": Manners(max_page=1, too_large=TOO_LARGE["bad gateway"]),
    "large page, GET only": Manners(max_page=20, too_large=TOO_LARGE["bad gateway"], methods=("GET",)),
    "large page, no link": Manners(max_page=20, too_large=TOO_LARGE["bad gateway"], link="none"),
}


@pytest.mark.parametrize("name", COMPLETE)
def test_a_search_gives_what_a_good_server_gives(name: str) -> None:
    with serve(StacServer([*ELSEWHEN, *ITEMS], COMPLETE[name])) as server:
        search = find(f"{server.url}/v1")
        asked = len(searches(server))
    assert found_ids(search) == expected()
    assert asked <= 20 + len(ITEMS) * (8 if COMPLETE[name].max_page < 20 else 2)
    if COMPLETE[name].count == "numberMatched" and not COMPLETE[name].ignores:
        assert search.completeness.counted == search.completeness.received == len(ITEMS)


INCOMPLETE = {
    "no link, dates not heard": (
        Manners(link="none", max_page=20, ignores=("datetime",)),
        "counts 97 items .* gives 20",
    ),
    "broken link, dates not heard": (
        Manners(link="broken", max_page=20, ignores=("datetime",)),
        "failed after 20 items of the 97 that the server counts: HTTP 404",
    ),
    "token not heard, dates not heard": (
        Manners(link="deaf", max_page=20, ignores=("datetime",)),
        "counts 97 items .* gives 20",
    ),
    "dies on the way": (
        Manners(max_page=20, fails_after=2),
        "failed after 40 items of the 57 that the server counts|failed after 40 items",
    ),
    "dies on the way, counts pages": (Manners(max_page=20, fails_after=2, count="page"), "failed after 40 items: "),
    "always too large": (Manners(max_page=0, too_large=TOO_LARGE["bad gateway"]), "failed: HTTP 502 .*Internal server"),
    "always says too large": (
        Manners(max_page=0, too_large=TOO_LARGE["limit named"]),
        "HTTP 400 .*limit must be <= 20",
    ),
    "a login page": (Manners(max_page=0, too_large=TOO_LARGE["a page of a proxy"]), "answers with a web page"),
    "an error as an answer": (
        Manners(max_page=0, too_large=json_response({"code": "X", "description": "index is closed"})),
        "without a list of features: index is closed",
    ),
    "no method works": (Manners(methods=()), "HTTP 405 .*Method Not Allowed"),
    "access refused": (Manners(max_page=0, too_large=error(401, message="no key")), "no key; access is refused"),
    "a field refused": (Manners(refuses=("bbox",)), "bbox is not supported"),
}


@pytest.mark.parametrize("name", INCOMPLETE)
def test_a_search_that_cannot_be_complete_is_one_sentence(name: str) -> None:
    manners, words = INCOMPLETE[name]
    with serve(StacServer([*ELSEWHEN, *ITEMS], manners)) as server:
        with pytest.raises(CatalogError, match=words) as caught:
            find(f"{server.url}/v1")
        assert len(searches(server)) < 60
    assert server.url in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_counts_more_than_it_gives_is_an_error_of_its_own() -> None:
    same_time = at_times(item(1), 30, JUNE[0], JUNE[0])
    with serve(StacServer(same_time, link="none", max_page=20)) as server:
        with pytest.raises(IncompleteSearchError, match=r"counts 30 items from 2026-06-01 .* and gives 20"):
            find(f"{server.url}/v1")
        assert len(searches(server)) < 200


def test_a_full_page_without_a_count_or_a_way_to_more_is_told() -> None:
    with serve(StacServer(ITEMS, link="none", max_page=20, count=None, ignores=("datetime",))) as server:
        search = find(f"{server.url}/v1")
    assert search.completeness.counted is None
    assert any("20 items, without a count" in note for note in search.completeness.notes)


def test_a_page_that_is_too_large_is_halved_at_once_and_only_once() -> None:
    manners = Manners(max_page=30, too_large=TOO_LARGE["bad gateway"])
    with serve(StacServer(ITEMS, manners)) as server:
        find(f"{server.url}/v1")
        sizes = [r.body["limit"] for r in searches(server)]
    assert sizes == [100, 50, 25, 50, 25, 25]


def test_an_answer_that_is_too_long_is_asked_for_in_smaller_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_http, "MAX_DOCUMENT_BYTES", 40_000)
    with serve(StacServer(ITEMS)) as server:
        assert found_ids(find(f"{server.url}/v1")) == expected()


def test_a_server_that_is_too_slow_for_a_page_is_asked_for_smaller_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_http, "TIMEOUT_S", (1.0, 0.3))
    api = StacServer(ITEMS)

    def answer(request: Request) -> Response:
        if request.method == "POST" and request.body["limit"] > 30:
            time.sleep(0.6)
        return api(request)

    with serve(answer) as server:
        assert found_ids(find(f"{server.url}/v1")) == expected()
        assert [r.body["limit"] for r in searches(server)] == [100, 25, 25, 25]


def test_pages_are_large_again_after_an_outage() -> None:
    api = StacServer(ITEMS, max_page=40)
    outage = [Response(502)] * 8

    def answer(request: Request) -> Response:
        return outage.pop() if outage and request.path.endswith("/search") else api(request)

    with serve(answer) as server:
        assert found_ids(find(f"{server.url}/v1")) == expected()
        assert [r.body["limit"] for r in searches(server)][-1] == 100


def test_a_page_that_fails_once_on_the_way_is_asked_for_again() -> None:
    api = StacServer(ITEMS, max_page=20)

    def answer(request: Request) -> Response:
        response = api(request)
        return Response(502) if api.answered == 2 else response

    with serve(answer) as server:
        assert found_ids(find(f"{server.url}/v1")) == expected()
        assert len(searches(server)) == 4


def test_a_server_that_never_gets_further_than_so_many_items_is_asked_in_parts() -> None:
    api = StacServer(ITEMS, max_page=10)

    def answer(request: Request) -> Response:
        token = (request.body or {}).get("token", "0") if request.method == "POST" else "0"
        return error(400, description="result window is too deep") if int(token) >= 30 else api(request)

    with serve(answer) as server:
        search = find(f"{server.url}/v1")
    assert found_ids(search) == expected()
    assert search.completeness.received == search.completeness.counted == 57


@pytest.mark.parametrize("endless", ["empty", "same"])
def test_pages_without_end_end(endless: str) -> None:
    count = iter(range(10_000))

    def answer(request: Request) -> Response:
        if request.path == "/":
            return StacServer([])(Request("GET", "/v1", {}, request.headers, None))
        features = ITEMS[:5] if endless == "same" else []
        links = [{"rel": "next", "href": f"?token={next(count)}"}]
        return json_response({"type": "FeatureCollection", "features": features, "links": links})

    with serve(answer) as server:
        if endless == "same":
            assert len(find(server.url).items) == 5
        else:
            with pytest.raises(CatalogError, match="50 empty pages in a row"):
                find(server.url)
        assert len(server.requests) < 80


def without_cloud_cover(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**i, "properties": {k: v for k, v in i["properties"].items() if k != "eo:cloud_cover"}} for i in items]


@pytest.mark.parametrize("part", ["query", "filter"])
@pytest.mark.parametrize("methods", [("GET", "POST"), ("GET",)])
@pytest.mark.parametrize("lacking", [0, 10, 57])
def test_a_cloud_filter_leaves_out_no_item_that_does_not_say(part: str, methods: tuple[str, ...], lacking: int) -> None:
    cloudy = at_times(item(1, id="S2A_T30UXB_cloudy", properties={"eo:cloud_cover": 90.0}), 9, *JUNE)
    items = [*without_cloud_cover(ITEMS[:lacking]), *ITEMS[lacking:]]
    api = StacServer([*items, *cloudy], max_page=20, conformance=(part,), methods=methods)
    with serve(api) as server:
        search = find(f"{server.url}/v1", max_cloud_cover=40)
    assert found_ids(search) == expected()
    assert any("do not say eo:cloud_cover" in note for note in search.completeness.notes) == bool(lacking)
    assert dict(search.dropped) == ({"are cloudier than source.max_cloud_cover": 9} if lacking else {})


def test_a_filter_that_could_not_be_checked_is_told() -> None:
    with serve(StacServer(ITEMS, conformance=("query",), fails_after=1)) as server:
        search = find(f"{server.url}/v1", max_cloud_cover=40)
    assert found_ids(search) == expected()
    assert any("is not known" in note for note in search.completeness.notes)
    with serve(StacServer([], conformance=("query",), fails_after=1)) as server:
        config = SourceConfig.model_validate({"url": f"{server.url}/v1", "max_cloud_cover": 40})
        with pytest.raises(NoScenesError, match=r"returned no items.*cloud filter .* is not known"):
            find_scenes(config, REGION, day("2026-06-01"), day("2026-06-30"))


@pytest.mark.parametrize("part", ["query", "filter"])
def test_a_server_that_refuses_its_own_filter_is_asked_without(part: str) -> None:
    with serve(StacServer(ITEMS, max_page=20, conformance=(part,), refuses=(part,))) as server:
        search = find(f"{server.url}/v1", max_cloud_cover=40)
    assert found_ids(search) == expected()
    assert any("refuses the cloud filter" in note for note in search.completeness.notes)


def test_a_search_by_post_survives_a_redirect() -> None:
    api = StacServer(ITEMS, max_page=20)

    def answer(request: Request) -> Response:
        if request.path == "/v1/search":
            return Response(301, b"", {"Location": "/v1/search/"})
        return api(request)

    with serve(answer) as server:
        assert found_ids(find(f"{server.url}/v1")) == expected()
        assert {r.method for r in server.requests if r.path == "/v1/search/"} == {"POST"}


def test_a_plan_knows_what_the_server_counts() -> None:
    with serve(StacServer(ITEMS, max_page=20)) as server:
        config = SourceConfig.model_validate({"provider": "planetary-computer", "url": f"{server.url}/v1"})
        found = find_scenes(config, REGION, day("2026-06-01"), day("2026-06-30"))
    assert (found.completeness.received, found.completeness.counted) == (57, 57)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(0, 40),
    manners=st.builds(
        Manners,
        default_page=st.integers(1, 10),
        max_page=st.integers(1, 12),
        too_large=st.sampled_from([None, *TOO_LARGE.values()]),
        methods=st.sampled_from([("GET",), ("POST",), ("GET", "POST")]),
        declared=st.sampled_from([("GET",), ("POST",), ("GET", "POST"), (None,)]),
        refusal=st.sampled_from([405, 501, 404]),
        link=st.sampled_from(["merge", "body", "token", "get", "relative", "none", "self", "circle", "broken", "deaf"]),
        count=st.sampled_from(["numberMatched", "context", "text"]),
        ignores=st.sets(st.sampled_from(["bbox", "collections"])).map(tuple),
        unlinked=st.sampled_from([None, "offset", "page", "token"]),
        overlap=st.integers(0, 3),
        empty_between=st.booleans(),
    ),
    size=st.sampled_from([5, 12, 100]),
)
def test_any_server_that_hears_dates_and_counts_gives_all(
    monkeypatch: pytest.MonkeyPatch, count: int, manners: Manners, size: int
) -> None:
    monkeypatch.setattr(api_negotiation, "PAGE_SIZE", size)
    items = at_times(item(1), count, *JUNE)
    with serve(StacServer([*ELSEWHEN[:5], *items], manners)) as server:
        search = find(f"{server.url}/v1")
    assert found_ids(search) == expected(items)
    assert search.completeness.received == search.completeness.counted == count


def test_several_searches_are_counted_together_as_far_as_all_are_counted() -> None:
    static = Completeness()
    assert together([static]) == static
    counted = together([Completeness(3, 3, ("a",)), static, Completeness(2, 4, ("a", "b"))])
    assert counted == Completeness(5, 7, ("a", "b"))
    assert together([Completeness(3, 3), Completeness(2, None)]) == Completeness(5, None)


@pytest.mark.parametrize(("count", "said"), [("numberMatched", "counts 57"), (None, "does not count them")])
def test_a_plan_shows_what_the_server_counts(count: str | None, said: str) -> None:
    with serve(StacServer(ITEMS, max_page=20, count=count)) as server:
        assert (
            screens._scenes_text(57, find(f"{server.url}/v1").completeness)
            == f"57 of 57 items found; the server {said}"
        )
    assert screens._scenes_text(3, Completeness()) == "3"
