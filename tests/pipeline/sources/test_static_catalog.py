"""Searches of static catalogs: JSON files on disk and over HTTP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import pipeline.sources.http as pipeline_http
from pipeline.errors import CatalogError, NoScenesError
from pipeline.sources.http import retry_policy
from tests.pipeline.loopback_server import Request, Response, file_answer, json_response, serve
from tests.pipeline.sources.test_catalog import ids, item, search
from tests.pipeline.tiny_scenes import write_scene


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = retry_policy
    monkeypatch.setattr(pipeline_http, "retry_policy", lambda *_: policy(3, 0.01))


def static_catalog(folder: Path) -> Path:
    """catalog.json → collection.json → items in their own folders, all hrefs relative."""
    links = [{"rel": "child", "href": "./s2/collection.json"}, {"rel": "self", "href": "http://wrong.test/"}]
    root = {"type": "Catalog", "stac_version": "1.1.0", "id": "root", "description": "d", "links": links}
    back = [{"rel": rel, "href": "../catalog.json"} for rel in ("root", "parent", "child")]
    collection = {"type": "Collection", "stac_version": "1.1.0", "id": "mine", "license": "other", "links": back}
    for d in (1, 2):
        made = write_scene(folder / "s2", f"S2A_T30UXB_{d}", time=f"2026-06-0{d}T10:30:00Z", size_m=160.0)
        for asset in made["assets"].values():
            asset["href"] = f"./{Path(asset['href']).name}"
        made["collection"] = "mine"
        place = folder / "s2" / made["id"]
        (place / "item.json").write_text(json.dumps(made))
        back.append({"rel": "item", "href": f"./{made['id']}/item.json"})
    back += [{"rel": "item", "href": "./absent.json"}, {"rel": "item", "href": "./broken.json"}]
    (folder / "s2" / "broken.json").write_text("{")
    (folder / "s2" / "collection.json").write_text(json.dumps(collection))
    (folder / "catalog.json").write_text(json.dumps(root))
    return folder / "catalog.json"


def test_a_static_catalog_on_disk_is_walked_and_its_broken_parts_are_told(tmp_path: Path) -> None:
    found = search(str(static_catalog(tmp_path)))
    assert ids(found) == ["S2A_T30UXB_1", "S2A_T30UXB_2"]
    assert found.scenes[0].assets["B02"].href == str(tmp_path / "s2" / "S2A_T30UXB_1" / "B02.tif")
    assert {Path(where).name for where, _ in found.skipped} == {"absent.json", "broken.json"}
    assert ids(search(static_catalog(tmp_path).as_uri())) == ids(found)


def test_a_static_catalog_over_http_resolves_hrefs_against_its_address(tmp_path: Path) -> None:
    static_catalog(tmp_path)
    with serve(lambda r: file_answer(tmp_path, r)) as server:
        found = search(f"{server.url}/catalog.json", collection="mine")
        assert found.scenes[0].assets["B02"].href == f"{server.url}/s2/S2A_T30UXB_1/B02.tif"
        with pytest.raises(NoScenesError, match="another collection"):
            search(f"{server.url}/catalog.json", collection="other")


def test_a_remote_static_catalog_may_not_lead_to_local_files(tmp_path: Path) -> None:
    links = [{"rel": "item", "href": (tmp_path / "x.json").as_uri()}, {"rel": "item", "href": "ftp://x.test/y.json"}]
    root = {"type": "Catalog", "id": "r", "links": links}
    (tmp_path / "x.json").write_text(json.dumps(item(1)))
    with serve(lambda _: json_response(root)) as server, pytest.raises(NoScenesError, match="not followed"):
        search(f"{server.url}/catalog.json")


def test_an_item_collection_file_is_a_catalog_too(tmp_path: Path) -> None:
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": [item(1), item(2)]}))
    assert len(search(str(tmp_path / "items.json")).scenes) == 2


def test_an_item_collection_of_several_pages_is_followed() -> None:
    def pages(request: Request) -> Response:
        second = "page" in request.query
        links = [] if second else [{"rel": "next", "href": "/items.json?page=2"}]
        return json_response({"type": "FeatureCollection", "features": [item(2 if second else 1)], "links": links})

    with serve(pages) as server:
        assert len(search(f"{server.url}/items.json").scenes) == 2


def test_a_static_catalog_in_trouble_is_asked_again(tmp_path: Path) -> None:
    static_catalog(tmp_path)
    trouble = [Response(503), Response(429), Response(0)]

    def answer(request: Request) -> Response:
        return trouble.pop() if trouble else file_answer(tmp_path, request)

    with serve(answer) as server:
        assert len(search(f"{server.url}/catalog.json").scenes) == 2


def test_a_missing_catalog_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"absent\.json"):
        search(str(tmp_path / "absent.json"))
