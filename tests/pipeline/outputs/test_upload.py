"""What ``spex publish`` sends: everything once, in an order that readers can rely on, then only what changed."""

from __future__ import annotations

import datetime as dt
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pystac
import pytest

from pipeline.commands.cli import main
from pipeline.errors import ConfigError, OutputError, UploadError
from pipeline.machine.progress import LogProgress
from pipeline.outputs.upload import MANIFEST, upload
from tests.pipeline.outputs.small_items import COLLECTION, product, write_items

JULY = dt.date(2026, 7, 1)


class Bucket(BaseHTTPRequestHandler):
    """As much of S3 as sending takes; path style, signatures unread."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]
    log: list[tuple[str, str, str]]
    refused: set[str]

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Length", str(len(body))),
            ("ETag", '"x"'),
            ("Last-Modified", self.date_time_string()),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix("/maps/")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.log.append(("PUT", self._key(), self.headers.get("Content-Type", "")))
        if self._key() in self.refused:
            return self._answer(403, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>")
        self.objects[self._key()] = body
        return self._answer(200)

    def do_GET(self) -> None:
        body = self.objects.get(self._key())
        self._answer(404 if body is None else 200, body or b"<Error><Code>NoSuchKey</Code></Error>")

    def do_DELETE(self) -> None:
        self.log.append(("DELETE", self._key(), ""))
        self.objects.pop(self._key(), None)
        self._answer(204)

    def log_message(self, format: str, *args: Any) -> None:
        return None


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Bucket]]:
    kind = type("ThisBucket", (Bucket,), {"objects": {}, "log": [], "refused": set()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}"),
        ("AWS_ACCESS_KEY_ID", "AKIDTEST"),
        ("AWS_SECRET_ACCESS_KEY", "S3CR3T"),
        ("AWS_REGION", "eu-central-1"),
    ):
        monkeypatch.setenv(name, value)
    yield kind
    server.shutdown()
    server.server_close()


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    write_items(folder, product(), product("coast"))
    (folder / COLLECTION / "notes.txt").write_text("mine")
    return folder


def rank(name: str) -> int:
    """Data, items, what holds them, the entry."""
    if name.endswith("catalog.json"):
        return 3
    if name.endswith(("collection.json", "items.parquet", "index.html")) or name.startswith("view/"):
        return 2
    parts = name.split("/")
    return 1 if parts[-1] == f"{parts[-2]}.json" else 0


def test_a_bucket_gets_everything_once_in_order_then_only_what_changed(output: Path, bucket: type[Bucket]) -> None:
    upload(output, "s3://maps/2026/all", LogProgress())
    sent = [key.removeprefix("2026/all/") for kind, key, _ in bucket.log if not key.endswith(MANIFEST)]
    assert [rank(name) for name in sent] == sorted(rank(name) for name in sent)
    assert {f"2026/all/{p.relative_to(output)}" for p in output.rglob("*")
            if p.is_file() and ".spex" not in p.parts and p.name != "notes.txt"} == {
        key for key in bucket.objects if not key.endswith(MANIFEST)
    }  # fmt: skip
    types = {key: kind for _, key, kind in bucket.log}
    assert types["2026/all/report/index.html"] == "text/html"
    assert types["2026/all/view/app.js"] == "text/javascript"  # browsers run nothing else as a module
    bucket.log.clear()
    assert upload(output, "s3://maps/2026/all", LogProgress()).sent == ()
    assert bucket.log == []
    write_items(output, product(start=JULY))
    again = upload(output, "s3://maps/2026/all", LogProgress()).sent
    assert {name for name in again if rank(name) < 2} == {name for name in again if "2026-07-01" in name}
    assert again[-1] == "report/index.html" or rank(again[-1]) >= 2


def test_what_the_bucket_refuses_is_told_and_sent_the_next_time(output: Path, bucket: type[Bucket]) -> None:
    bucket.refused.add("x/catalog.json")
    with pytest.raises(UploadError, match=r"catalog\.json cannot be sent to s3://maps/x: .*403") as caught:
        upload(output, "s3://maps/x", LogProgress())
    assert "S3CR3T" not in str(caught.value)
    bucket.refused.clear()
    sent = upload(output, "s3://maps/x", LogProgress()).sent
    assert "catalog.json" in sent
    assert not [name for name in sent if rank(name) == 0], "the large files are there already"


def test_a_folder_is_a_target_and_its_copy_is_a_catalog(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "there"
    with pytest.raises(SystemExit) as ended:
        main(["publish", str(output), str(there)])
    assert ended.value.code == 0
    assert "0 unchanged, 0 removed" in capsys.readouterr().out
    (there / "theirs.txt").write_text("not ours")
    items = [i.id for i in pystac.Catalog.from_file(str(there / "catalog.json")).get_items(recursive=True)]
    assert len(items) == 2
    shutil.rmtree(output / COLLECTION / items[0])
    with pytest.warns(UserWarning, match="cannot be read"):
        write_items(output, product(start=JULY))
    removed = upload(output, str(there), LogProgress()).removed
    assert removed
    assert all(items[0] in name for name in removed)
    assert not list((there / COLLECTION / items[0]).glob("*"))
    assert (there / "theirs.txt").is_file()


@pytest.mark.parametrize("target", ["ftp://user:S3CR3T@host/x", "http://host/x", "s3://"])
def test_what_cannot_be_a_target_is_refused(output: Path, target: str) -> None:
    with pytest.raises(ConfigError, match="cannot be published to") as caught:
        upload(output, target, LogProgress())
    assert "S3CR3T" not in str(caught.value)


def test_a_folder_without_a_catalog_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="nothing is published there yet"):
        upload(tmp_path / "out", str(tmp_path / "there"), LogProgress())
