"""Searches of static catalogs: JSON files on disk and over HTTP."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

import pipeline.sources.http as pipeline_http
from pipeline.errors import BadInputError, CatalogError, NoScenesError
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


def collection_of(*items: dict[str, Any], **members: Any) -> str:
    return json.dumps({"type": "FeatureCollection", "features": items, **members})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("remote", [False, True])
def test_a_document_may_be_in_any_unicode_encoding(tmp_path: Path, encoding: str, remote: bool) -> None:
    text = collection_of(item(1), item(2), title="Überblick")
    (tmp_path / "items.json").write_bytes(text.encode(encoding))
    if not remote:
        assert len(search(str(tmp_path / "items.json")).scenes) == 2
        return
    with serve(lambda r: file_answer(tmp_path, r)) as server:
        assert len(search(f"{server.url}/items.json").scenes) == 2


def lines(separator: str = "", end: str = "\n") -> str:
    return "".join(f"{separator}{json.dumps(item(d))}{end}" for d in (1, 2))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (lines(), 2),
        (lines(end="\r\n\r\n"), 2),
        (lines("\x1e"), 2),
        ("\ufeff" + lines(), 2),
        (json.dumps([item(1), item(2)]), 2),
        (json.dumps(item(1)), 1),
        (json.dumps({k: v for k, v in item(1).items() if k != "type"}), 1),
        (collection_of(item(1), item(2)), 2),
        (json.dumps({"features": [item(1)]}), 1),
    ],
)
def test_items_may_stand_in_a_file_of_any_kind(tmp_path: Path, text: str, count: int) -> None:
    (tmp_path / "items.json").write_text(text, encoding="utf-8")
    assert len(search(str(tmp_path / "items.json")).scenes) == count


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"\xef\xbb\xbf", "it is empty"),
        (b"<!DOCTYPE html><html></html>", "a web page or XML"),
        (b"PAR1\x15\x04", "a Parquet file.*rustac translate"),
        (gzip.compress(b"{}"), "compressed with gzip"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b'{"type": "Catalog", "id": "\xe4"}', "neither in UTF-8 nor in UTF-16"),
        (b'{"type": "FeatureCollection", "features": [', "is not JSON"),
        (b'{"a": 1}\n{"b": 2}', "is not JSON: Extra data"),
        (b'{"type": "Topology"}', "not a STAC catalog, .* item collection .its type is 'Topology'"),
        (b"[1]", "not a STAC catalog"),
        (b'{"type": "Catalog", "stac_version": "1.0.0", "id": "x", "links": []}', "links no"),
    ],
)
def test_what_is_no_catalog_is_told_by_what_it_is(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "catalog.json").write_bytes(content)
    with pytest.raises(CatalogError, match=words) as caught:
        search(str(tmp_path / "catalog.json"))
    assert "catalog.json" in str(caught.value)


def test_a_saved_page_of_a_search_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    (tmp_path / "items.json").write_text(collection_of(item(1), item(2), numberMatched=250))
    found = search(str(tmp_path / "items.json"))
    assert len(found.scenes) == 2
    assert "holds 2 of the 250 items" in found.skipped[0][1]
    links = [{"rel": "next", "href": "https://a.example/search", "method": "POST"}]
    (tmp_path / "items.json").write_text(collection_of(item(1), links=links))
    with pytest.raises(BadInputError, match=r"asked for by POST: put the root of the STAC API into source\.url"):
        search(str(tmp_path / "items.json"))


FOLDER = "my scenes (1)"
"""Where the files of the next tests lie."""


@pytest.mark.parametrize(
    "written",
    [
        "my scenes (1)/{}",
        "./my%20scenes%20(1)/{}",
        "my%20scenes%20%281%29/{}",
        "my scenes (1)\\{}",
        ".\\my scenes (1)\\{}",
        "my%20scenes%20(1)\\{}",
        "my scenes (1)/../my scenes (1)//{}",
    ],
)
def test_relative_hrefs_are_found_however_they_are_written(tmp_path: Path, written: str) -> None:
    made = write_scene(tmp_path, FOLDER, time="2026-06-01T10:30:00Z", size_m=160.0)
    for asset in made["assets"].values():
        asset["href"] = written.format(Path(asset["href"]).name)
    (tmp_path / "items.json").write_text(collection_of(made))
    (tmp_path / FOLDER / "item.json").write_text(json.dumps({**made, "id": "S2A_T30UXB_linked", "assets": {}}))
    links = [{"rel": "item", "href": written.format("item.json")}, {"rel": "item", "href": "items.json"}]
    (tmp_path / "catalog.json").write_text(json.dumps({"type": "Catalog", "id": "c", "links": links}))
    found = search(str(tmp_path / "catalog.json"))
    assert found.scenes[0].assets["B02"].href == str(tmp_path / FOLDER / "B02.tif")
    assert [where for where, _ in found.skipped] == ["S2A_T30UXB_linked"]  # it was read: it has no assets


def test_a_name_with_a_percent_sign_is_taken_as_it_is_where_it_is_there(tmp_path: Path) -> None:
    for folder in ("a b", "a%20b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "item.json").write_text(json.dumps(item(1, id=f"S2A_{folder}")))
    links = [{"rel": "item", "href": "a%20b/item.json"}]
    (tmp_path / "catalog.json").write_text(json.dumps({"type": "Catalog", "id": "c", "links": links}))
    assert ids(search(str(tmp_path / "catalog.json"))) == ["S2A_a%20b"]


def test_paths_of_windows_drives_are_told(tmp_path: Path) -> None:
    links = [{"rel": "item", "href": "C:\\scenes\\item.json"}]
    (tmp_path / "catalog.json").write_text(json.dumps({"type": "Catalog", "id": "c", "links": links}))
    with pytest.raises(NoScenesError, match="a path on a Windows drive"):
        search(str(tmp_path / "catalog.json"))


@pytest.mark.parametrize("written", ["{}", "{}/", "{}/s2", "{}/s2/", "{}/catalog.json/", "file://{}", "file://{}/s2/"])
def test_a_catalog_may_be_named_by_its_folder(tmp_path: Path, written: str) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    static_catalog(folder)
    plain = written.format(folder)
    encoded = written.format(str(folder).replace(" ", "%20"))
    assert len(search(plain if not plain.startswith("file:") else encoded).scenes) == 2
    assert len(search(encoded).scenes) == 2


def test_links_may_name_folders_and_files_by_their_urls(tmp_path: Path) -> None:
    static_catalog(tmp_path)
    for href in ("s2", "./s2/", (tmp_path / "s2").as_uri(), (tmp_path / "s2" / "collection.json").as_uri()):
        root = {"type": "Catalog", "id": "root", "links": [{"rel": "child", "href": href}]}
        (tmp_path / "root.json").write_text(json.dumps(root))
        assert len(search(str(tmp_path / "root.json")).scenes) == 2


def test_a_slash_behind_a_document_on_a_server_does_not_matter(tmp_path: Path) -> None:
    static_catalog(tmp_path)
    with serve(lambda r: file_answer(tmp_path, r)) as server:
        assert len(search(f"{server.url}/catalog.json/").scenes) == 2
