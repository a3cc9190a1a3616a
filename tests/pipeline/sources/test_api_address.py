"""Which addresses lead to the search of a STAC API."""

from __future__ import annotations

import pytest

from pipeline.errors import BadInputError
from pipeline.sources.api_address import joined
from tests.pipeline.loopback_server import json_response, serve
from tests.pipeline.sources.test_api_search import ITEMS, expected, find, found_ids, searches
from tests.pipeline.sources.test_catalog import item
from tests.pipeline.stac_server import StacServer


@pytest.mark.parametrize("path", ["", "/", "/collections/{}", "/collections/{}/", "/collections/{}/items", "/search"])
@pytest.mark.parametrize("query", ["", "?limit=10&collections=sentinel-2-l2a"])
def test_an_address_below_the_root_is_searched_as_the_root_is(path: str, query: str) -> None:
    other = item(9, id="S2A_T30UXB_l1c", collection="sentinel-2-l1c")
    with serve(StacServer([*ITEMS, other], max_page=20)) as server:
        search = find(f"{server.url}/v1{path.format('sentinel-2-l2a')}{query}", provider="generic")
        assert all(r.method == "POST" for r in searches(server))
    names_it = "{}" in path or (query and path == "/search")
    assert found_ids(search) == expected(ITEMS if names_it else [*ITEMS, other])


def test_a_collection_that_is_named_twice_differently_is_bad_input() -> None:
    with serve(StacServer(ITEMS)) as server, pytest.raises(BadInputError, match=r"'sentinel-2-l2a'.*'other'"):
        find(f"{server.url}/v1/collections/sentinel-2-l2a", collection="other")


def test_one_page_of_a_search_whose_root_is_unknown_is_refused() -> None:
    page = {"type": "FeatureCollection", "features": ITEMS[:3]}
    page["links"] = [{"rel": "next", "href": "/x", "method": "POST", "body": {"token": "3"}}]
    with serve(lambda _: json_response(page)) as server, pytest.raises(BadInputError, match="root of the STAC API"):
        find(f"{server.url}/page")


@pytest.mark.parametrize(
    ("base", "href", "url"),
    [
        ("https://a.example/v1", "/v1/search", "https://a.example/v1/search"),
        ("https://a.example:8443/v1", "http://a.example/v1/search?b=1", "https://a.example:8443/v1/search?b=1"),
        ("https://a.example/v1", "http://b.example/search", "http://b.example/search"),
        ("http://a.example/v1/search?x=1", "?token=2", "http://a.example/v1/search?token=2"),
        ("https://a.example/", "http://[bad/search", "http://[bad/search"),
    ],
)
def test_a_server_behind_an_encrypting_proxy_is_asked_as_before(base: str, href: str, url: str) -> None:
    assert joined(base, href) == url
