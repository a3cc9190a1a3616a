"""What ``spex view`` gives out: one folder, to browsers of this machine, in whole or in parts, and nothing else."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.commands.cli import main
from pipeline.errors import ConfigError, OutputError
from pipeline.outputs.view_server import ViewServer, open_server
from tests.pipeline.outputs.small_items import COLLECTION, product, write_items

PIXELS = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("top")
    (top / "secret.json").write_text('"SECRET"')
    output = top / "out"
    item = write_items(output, product()).items[0].parent
    (item / "landcover.tif").write_bytes(PIXELS)
    (item / "linked.json").symlink_to(top / "secret.json")
    (item / "evil.js").write_text("alert(1)")
    (output / "linked").symlink_to(top)
    (output / "run.yaml").write_text("SECRET: 1")
    (output / ".spex" / "hidden.json").write_text('"SECRET"')
    (output / "view" / "evil.js").write_text("alert(1)")
    (output / "view" / "strings" / "fr.json").write_text('{"title": "Occupation du sol"}')
    os.mkfifo(item / "pipe.json")
    return output


def _why(run: str, lon: float, lat: float) -> str:
    if lon > 100:
        raise OutputError("no such place\x1b[31m")
    return f"{run} {lon:g} {lat:g}"


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ViewServer]:
    server = open_server(folder, 0, _why)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ask(
    server: ViewServer, path: str, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest(method, path, skip_host="Host" in (headers or {}), skip_accept_encoding=True)
    for name, value in (headers or {}).items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


@pytest.fixture(scope="module")
def tif(folder: Path) -> str:
    return "/" + next(folder.glob(f"{COLLECTION}/*/landcover.tif")).relative_to(folder).as_posix()


def test_it_listens_on_loopback_alone_and_leads_to_the_page(server: ViewServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    response, _ = ask(server, "/")
    assert (response.status, response.headers["Location"]) == (302, "/view/")
    response, body = ask(server, "/view/")
    assert response.status == 200
    assert b'<script type="module" src="app.js">' in body
    assert response.headers["Content-Security-Policy"].startswith("default-src 'self';")
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers.get("Access-Control-Allow-Origin") is None


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-299", 100, 300),
        ("bytes=10200-", 10200, 10240),
        ("bytes=-5", 10235, 10240),
        ("bytes=-99999", 0, 10240),
        ("bytes=10000-99999", 10000, 10240),
    ],
)
def test_parts_of_a_file(server: ViewServer, tif: str, asked: str, start: int, end: int) -> None:
    response, body = ask(server, tif, headers={"Range": asked})
    assert (response.status, body) == (206, PIXELS[start:end])
    assert response.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(PIXELS)}"
    head, nothing = ask(server, tif, "HEAD", {"Range": asked})
    assert (head.status, nothing, head.headers["Content-Length"]) == (206, b"", str(end - start))


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=-", "lines=1-2", "bytes=0-1,5-6", "bytes=" + "9" * 30 + "-", ""])
def test_what_is_no_single_part_is_answered_by_the_whole(server: ViewServer, tif: str, asked: str) -> None:
    response, body = ask(server, tif, headers={"Range": asked})
    assert (response.status, body) == (200, PIXELS)


def test_a_part_behind_the_end_and_versions_of_a_file(server: ViewServer, tif: str) -> None:
    response, _ = ask(server, tif, headers={"Range": "bytes=10240-"})
    assert (response.status, response.headers["Content-Range"]) == (416, "bytes */10240")
    tag = ask(server, tif)[0].headers["ETag"]
    assert ask(server, tif, headers={"If-None-Match": tag})[0].status == 304
    assert ask(server, tif, headers={"If-None-Match": '"other"'})[0].status == 200
    assert ask(server, tif, headers={"Range": "bytes=0-3", "If-Range": tag})[0].status == 206
    assert ask(server, tif, headers={"Range": "bytes=0-3", "If-Range": '"other"'})[0].status == 200


@pytest.mark.parametrize(
    "path",
    [
        *("/../secret.json", "/%2e%2e/secret.json", "/view/../../secret.json", "/..%2fsecret.json", "//secret.json"),
        *("/linked/secret.json", f"/{COLLECTION}/ITEM/linked.json", f"/{COLLECTION}/ITEM/pipe.json", "/run.yaml"),
        *("/.spex/hidden.json", "/%2espex/hidden.json", f"/{COLLECTION}/", f"/{COLLECTION}", "/report/", "/.json"),
        *(f"/{COLLECTION}/ITEM", f"/{COLLECTION}/ITEM/evil.js", "/view/evil.js", "/view/strings/", "/catalog.json/"),
        *("/catalog.json%00", "/catalog.json%0a", "/..\\secret.json", "/%ff.json", "/" + "a" * 5000 + ".json"),
        "*",
    ],
)
def test_nothing_else_is_shown(server: ViewServer, tif: str, path: str) -> None:
    response, body = ask(server, path.replace("ITEM", tif.split("/")[2]))
    assert response.status == 404
    assert b"SECRET" not in body
    assert b"alert" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_is_written(server: ViewServer, tif: str, method: str) -> None:
    assert ask(server, tif, method)[0].status == 405


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1.evil.example:PORT"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
    ],
    ids=str,
)
def test_other_names_and_other_sites_get_nothing(server: ViewServer, tif: str, headers: dict[str, str]) -> None:
    told = {name: value.replace("PORT", str(server.server_port)) for name, value in headers.items()}
    response, body = ask(server, tif, headers=told)
    assert (response.status, PIXELS[:20] in body) == (403, False)


def test_its_own_page_and_a_link_from_elsewhere_are_served(server: ViewServer, tif: str) -> None:
    own = {"Origin": f"http://127.0.0.1:{server.server_port}", "Sec-Fetch-Site": "same-origin"}
    assert ask(server, tif, headers=own)[0].status == 200
    assert ask(server, tif, headers={"Host": f"localhost:{server.server_port}"})[0].status == 200
    assert (
        ask(server, "/view/", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})[0].status == 200
    )


def test_maps_are_listed_as_they_are_now_with_the_languages_of_the_folder(server: ViewServer, folder: Path) -> None:
    found = json.loads(ask(server, "/view/maps.json")[1])
    written = json.loads((folder / "view" / "maps.json").read_text())
    assert (found["explains"], written["explains"]) == (True, False)
    assert (found["languages"], written["languages"]) == (["de", "en", "fr"], ["de", "en"])
    assert found["maps"] == written["maps"]
    (entry,) = found["maps"]
    assert ask(server, f"/{entry['folder']}/{entry['files']['landcover']}")[1] == PIXELS
    assert b"Occupation" in ask(server, "/view/strings/fr.json")[1]


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("run=ab12&at=11.5,-46", {"text": "ab12 11.5 -46"}),
        ("run=ab12&at=111,46", {"error": "no such place\\x1b[31m"}),
        ("run=../x&at=11,46", {"error": "ask for run=ID and at=LON,LAT in degrees"}),
        ("run=ab12&at=nan,46", {"error": "ask for run=ID and at=LON,LAT in degrees"}),
        ("run=ab12", {"error": "ask for run=ID and at=LON,LAT in degrees"}),
    ],
)
def test_reasons_of_a_point(server: ViewServer, query: str, answer: dict[str, str]) -> None:
    response, body = ask(server, f"/view/why.json?{query}")
    assert (response.status, json.loads(body)) == (200, answer)


def test_a_port_that_is_taken(server: ViewServer, folder: Path) -> None:
    with pytest.raises(ConfigError, match=rf"port {server.server_port} of 127.0.0.1 cannot be used: .*--port"):
        open_server(folder, server.server_port)


def test_a_folder_without_a_catalog_is_told_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, reason in ((tmp_path, "has no catalog.json"), (tmp_path / "gone", "cannot be read")):
        with pytest.raises(SystemExit) as ended:
            main(["view", str(path), "--no-browser"])
        told = capsys.readouterr().err
        assert (ended.value.code, told.count("\n"), reason in told) == (2, 1, True)


def test_the_command_imports_nothing_heavy_prints_its_address_and_ends_on_ctrl_c(folder: Path) -> None:
    code = (
        "import sys, threading, signal, os\n"
        "from http.server import ThreadingHTTPServer\n"
        "from pipeline.commands.cli import main\n"
        "serve = ThreadingHTTPServer.serve_forever\n"
        "def once(self):\n"
        "    print(sorted({'torch', 'numpy', 'rasterio', 'ray'} & sys.modules.keys()))\n"
        "    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "    serve(self)\n"
        "ThreadingHTTPServer.serve_forever = once\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job of a shell ignores it
        f"main(['view', {str(folder)!r}, '--no-browser', '--port', '0'])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    address, modules = said.stdout.splitlines()
    assert address.startswith("http://127.0.0.1:")
    assert (modules, said.returncode) == ("[]", 130)
    assert "Traceback" not in said.stderr
