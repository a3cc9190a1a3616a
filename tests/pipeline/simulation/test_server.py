"""The loopback servers behave as providers do."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pystac_client
import pytest
import rasterio

from pipeline.errors import CatalogError
from pipeline.simulation import Archive, publish_items, serve_files, serve_stac
from pipeline.simulation.server import file_server


def ask(
    base_url: str, path: str, method: str = "GET", bytes_range: str | None = None
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=10)
    connection.request(method, path, headers={"Range": bytes_range} if bytes_range else {})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, response.headers, body


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "ten.bin").write_bytes(b"0123456789")
    (tmp_path / "secret.txt").write_text("no")
    return tmp_path / "served"


@pytest.mark.parametrize(
    ("asked", "status", "body", "content_range"),
    [
        (None, 200, b"0123456789", None),
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=0-99", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=-0", 416, b"", "bytes */10"),
        ("bytes=5-2", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
    ],
)
def test_ranges_are_answered(folder: Path, asked: str | None, status: int, body: bytes, content_range: str) -> None:
    with serve_files(folder) as url:
        got = ask(url, "/ten.bin", bytes_range=asked)
    assert got[0] == status
    assert got[2] == body
    assert got[1]["Content-Range"] == content_range
    assert got[1]["Content-Length"] == str(len(body))


def test_head_tells_the_size_without_the_bytes(folder: Path) -> None:
    with serve_files(folder) as url:
        status, headers, body = ask(url, "/ten.bin", "HEAD")
    assert (status, headers["Content-Length"], headers["Accept-Ranges"], body) == (200, "10", "bytes", b"")


def test_nothing_outside_the_folder_is_served(folder: Path) -> None:
    with serve_files(folder) as url:
        for path in ("/../secret.txt", "/%2e%2e/secret.txt", "/missing", "/", "/" + "x" * 5000):
            assert ask(url, path)[0] == 404, path


def test_failures_come_as_often_as_planned(folder: Path) -> None:
    with file_server(folder) as server:
        server.fail_next("ten", 503, times=2)
        server.fail_next("ten", 404)
        assert [ask(server.base_url, "/ten.bin")[0] for _ in range(4)] == [503, 503, 404, 200]


def test_the_server_is_gone_afterwards(folder: Path) -> None:
    with serve_files(folder) as url:
        assert ask(url, "/ten.bin")[0] == 200
    with pytest.raises(OSError, match="refused"):
        ask(url, "/ten.bin")


def test_gdal_reads_windows_over_http(archive: Archive) -> None:
    local = next(archive.folder.glob("scenes/*/*/B04.tif"))
    with (
        serve_files(archive.folder) as url,
        rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", GDAL_HTTP_TIMEOUT="10"),
        rasterio.open(f"{url}/{local.relative_to(archive.folder)}") as remote,
        rasterio.open(local) as near,
    ):
        window = rasterio.windows.Window(20, 40, 50, 60)
        assert np.array_equal(remote.read(1, window=window), near.read(1, window=window))


def test_the_stac_api_answers_searches_page_by_page(archive: Archive) -> None:
    with serve_files(archive.folder) as url, serve_stac(publish_items(archive.folder, url)) as api:
        client = pystac_client.Client.open(api)
        assert {c.id for c in client.get_collections()} == {"sentinel-2-l2a", "esa-worldcover"}
        search = client.search(collections=["sentinel-2-l2a"], limit=1)
        pages = list(search.pages())
        assert [len(page.items) for page in pages] == [1, 1, 1, 1]
        assert {page.items[0].id for page in pages} == {item["id"] for item in archive.items}
        june = client.search(collections=["sentinel-2-l2a"], datetime="2026-06-01/2026-06-30")
        assert all("20260618" in item.id for item in june.items())
        assert len(list(june.items())) == 2
        elsewhere = client.search(collections=["sentinel-2-l2a"], bbox=[20, 10, 21, 11])
        assert list(elsewhere.items()) == []
        href = pages[0].items[0].assets["scl"].href
        assert ask(url, urlsplit(href).path, "HEAD")[0] == 200


def test_unreadable_items_are_told(tmp_path: Path) -> None:
    broken = tmp_path / "items.json"
    broken.write_text(json.dumps({"type": "nonsense"}))
    with pytest.raises(CatalogError, match="rustac serve"), serve_stac(broken):
        pass
