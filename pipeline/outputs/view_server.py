"""The server behind ``spex view``: one output folder for the browsers of this machine, and nothing else.

It listens on loopback, answers only to its own name (another site's name that points here gets nothing), writes
nothing, lists no folder, follows no link and shows no hidden file. The page itself comes from the installed package, so
an older folder is shown as well, and no script of the folder is ever run.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pipeline.errors import ConfigError
from pipeline.machine.addresses import public_document
from pipeline.outputs.output_folder import VIEW_FOLDER
from pipeline.outputs.view_page import MAPS_FILE, languages, maps_json, page_files, published_maps
from spex_core.errors import SpexError, harmless

LOOPBACK = "127.0.0.1"
USUAL_PORT = 8050
"""Taken where it is free and none is asked for: links to a view work again the next day."""
IDLE_S = 60.0
"""A connection that says nothing for so long is closed."""
WHY_FILE = "why.json"
_CHUNK = 1 << 20
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_RUN_ID = re.compile(r"[0-9a-f]{1,64}")
_PLAIN = "text/plain; charset=utf-8"
_TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".json": "application/json", ".geojson": "application/geo+json", ".png": "image/png", ".tif": "image/tiff",
    ".csv": "text/csv; charset=utf-8", ".md": _PLAIN, ".txt": _PLAIN, ".qml": "application/xml",
    ".xml": "application/xml", ".parquet": "application/vnd.apache.parquet",
}  # fmt: skip
"""What is shown; a file with another ending (a run file, a key) is not."""
_PAGE_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_FOLDER_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Of what lies in the folder: a report has its style in it, and none has a script."""
Why = Callable[[str, float, float], str]
"""Run id, longitude, latitude → the reasons in words."""


@dataclass(frozen=True)
class _Content:
    """What is sent: bytes in memory, or an open file."""

    media_type: str
    size: int
    tag: str | None
    data: bytes | None = None
    file: int = -1
    policy: str = _FOLDER_POLICY


class ViewServer(ThreadingHTTPServer):
    """Serves one folder; use :func:`open_server`."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, output: Path, port: int, why: Why | None) -> None:
        self.page = page_files()
        self.output = output
        self.why = why
        self.one_at_a_time = threading.Lock()
        self.root = os.open(output, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        super().__init__((LOOPBACK, port), _Handler)  # closes everything where it fails

    @property
    def address(self) -> str:
        """Of the page."""
        return f"http://{LOOPBACK}:{self.server_port}/{VIEW_FOLDER}/"

    def server_close(self) -> None:
        super().server_close()
        with contextlib.suppress(OSError):
            os.close(self.root)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no news."""


def open_server(output: Path, port: int | None = None, why: Why | None = None) -> ViewServer:
    """Opens the server of a folder; ``serve_forever`` answers, ``server_close`` ends it.

    Args:
        output: An output folder with a catalog.
        port: Of 127.0.0.1; 0: any that is free; default: :data:`USUAL_PORT`, or another where that is taken.
        why: Gives the reasons of a point's class; default: no reasons.

    Raises:
        ConfigError: The port cannot be used.
        InstallationError: The map library is not installed.
        OutputError: The folder holds no catalog, or cannot be opened.
    """
    next(published_maps(output), None)
    try:
        return ViewServer(output, USUAL_PORT if port is None else port, why)
    except OSError as error:
        if port is None and error.errno == errno.EADDRINUSE:
            return ViewServer(output, 0, why)
        where = f"port {port} of {LOOPBACK}" if port else f"{LOOPBACK}"
        raise ConfigError(f"{where} cannot be used: {error.strerror or error}; give another --port") from None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "spex", ""
    timeout = IDLE_S
    disable_nagle_algorithm = True
    server: ViewServer

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _refuse_method(self) -> None:
        self._error(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD"})

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _refuse_method

    def _answer(self, with_body: bool) -> None:
        if not self._is_ours():
            return self._error(HTTPStatus.FORBIDDEN)
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            return self._error(HTTPStatus.BAD_REQUEST)  # a body would be taken for the next request
        names = self._names()
        if names in ([], [""], [VIEW_FOLDER]):
            return self._redirect()
        content = None if names is None else self._content(names)
        if content is None:
            return self._error(HTTPStatus.NOT_FOUND)
        try:
            return self._send(content, with_body)
        finally:
            if content.file >= 0:
                os.close(content.file)

    def _is_ours(self) -> bool:
        """Asked by its own name, and not by another site's page."""
        own = {f"{name}:{self.server.server_port}" for name in (LOOPBACK, "localhost")}
        hosts, origins = self.headers.get_all("Host") or [], self.headers.get_all("Origin") or []
        site = self.headers.get("Sec-Fetch-Site", "none")
        # A link from elsewhere may open a page; another site's script may ask for nothing.
        foreign = site not in ("none", "same-origin") and self.headers.get("Sec-Fetch-Mode") != "navigate"
        return (
            len(hosts) == 1
            and hosts[0] in own
            and all(o in {f"http://{h}" for h in own} for o in origins)
            and not foreign
        )

    def _names(self) -> list[str] | None:
        """Names of the path; ``None`` where it is none that is ever shown."""
        if not self.path.startswith("/") or self.path.startswith("//"):
            return None
        try:
            path = unquote(urlsplit(self.path).path, errors="strict")
        except ValueError:
            return None
        names = path[1:].split("/")
        if names == [VIEW_FOLDER, ""]:
            return [VIEW_FOLDER, "index.html"]
        if names == [""]:
            return names
        hidden = any(name == "" or name.startswith(".") or not name.isprintable() or "\\" in name for name in names)
        return None if hidden else names

    def _content(self, names: list[str]) -> _Content | None:
        ending = PurePosixPath(names[-1]).suffix
        if ending not in _TYPES:
            return None
        if names[0] == VIEW_FOLDER:
            name = "/".join(names[1:])
            if name == MAPS_FILE:
                return _document(self._maps(), _PAGE_POLICY)
            if name == WHY_FILE:
                return None if self.server.why is None else _document(self._why(), _PAGE_POLICY)
            if (data := self.server.page.get(name)) is not None:
                return _Content(_TYPES[ending], len(data), None, data, policy=_PAGE_POLICY)
            if ending != ".json":  # another language; scripts are those of the package
                return None
        elif ending == ".js":
            return None
        return _file_content(self.server.root, names, _TYPES[ending])

    def _maps(self) -> bytes:
        output = self.server.output
        return maps_json(
            published_maps(output), languages(output, self.server.page), explains=self.server.why is not None
        )

    def _why(self) -> bytes:
        asked = parse_qs(urlsplit(self.path).query)
        try:
            run = asked["run"][0]
            lon, lat = (float(number) for number in asked["at"][0].split(","))
            if not (_RUN_ID.fullmatch(run) and abs(lon) <= 180 and abs(lat) <= 90):
                raise ValueError
        except (KeyError, ValueError):
            return _json({"error": "ask for run=ID and at=LON,LAT in degrees"})
        if not self.server.one_at_a_time.acquire(blocking=False):
            return _json({"error": "another point is being explained; ask again when it is done"})
        try:
            assert self.server.why is not None
            return _json({"text": self.server.why(run, lon, lat)})
        except SpexError as error:
            return _json({"error": harmless(str(error))})
        except Exception as error:  # of the libraries that read the scenes; the page shows it, and the server goes on
            return _json({"error": harmless(f"{type(error).__name__}: {error}")})
        finally:
            self.server.one_at_a_time.release()

    # -- answers -------------------------------------------------------------------------------------------------------

    def _send(self, content: _Content, with_body: bool) -> None:
        if content.tag is not None and content.tag == self.headers.get("If-None-Match"):
            self._head(HTTPStatus.NOT_MODIFIED, content, {"ETag": content.tag})
            return
        part = self._part(content)
        if part is None:
            return self._error(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, {"Content-Range": f"bytes */{content.size}"})
        start, length, whole = part
        headers = {"Content-Type": content.media_type, "Content-Length": str(length)}
        if content.tag is not None:
            headers |= {"ETag": content.tag, "Accept-Ranges": "bytes"}
        if not whole:
            headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{content.size}"
        self._head(HTTPStatus.OK if whole else HTTPStatus.PARTIAL_CONTENT, content, headers)
        if with_body:
            self._body(content, start, length)

    def _part(self, content: _Content) -> tuple[int, int, bool] | None:
        """Start, length, and whether that is everything; ``None``: nothing of what was asked is there."""
        everything = (0, content.size, True)
        asked = self.headers.get("Range")
        if asked is None or content.tag is None or self.headers.get("If-Range", content.tag) != content.tag:
            return everything
        found = _RANGE.fullmatch(asked.strip())
        if found is None or found[1] == found[2] == "":
            return everything  # several parts, or another unit: the whole is a right answer, too
        if found[1] == "":
            start, end = max(0, content.size - int(found[2])), content.size
        else:
            start = int(found[1])
            end = min(content.size, int(found[2]) + 1) if found[2] else content.size
            if found[2] and int(found[2]) < start:
                return everything
        return (start, end - start, False) if start < end else None

    def _body(self, content: _Content, start: int, length: int) -> None:
        if content.data is not None:
            self.wfile.write(content.data[start : start + length])
            return
        while length > 0:
            data = os.pread(content.file, min(_CHUNK, length), start)
            if not data:  # the file has become shorter
                self.close_connection = True
                return
            self.wfile.write(data)
            start, length = start + len(data), length - len(data)

    def _redirect(self) -> None:
        self._head(HTTPStatus.FOUND, None, {"Location": f"/{VIEW_FOLDER}/", "Content-Length": "0"})

    def _error(self, status: HTTPStatus, headers: dict[str, str] | None = None) -> None:
        text = f"{status.value} {status.phrase}\n".encode()
        self.close_connection = True  # a body that was not read would be taken for the next request
        plain = {"Content-Type": _PLAIN, "Content-Length": str(len(text)), "Connection": "close"}
        self._head(status, None, plain | (headers or {}))
        if self.command != "HEAD":
            self.wfile.write(text)

    def _head(self, status: HTTPStatus, content: _Content | None, headers: dict[str, str]) -> None:
        self.send_response(status)
        fixed = {
            "Content-Security-Policy": _FOLDER_POLICY if content is None else content.policy,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cache-Control": "no-cache",
        }
        for name, value in (fixed | headers).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not told: a map is dozens of them."""


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(public_document(document), allow_nan=False).encode()


def _document(data: bytes, policy: str) -> _Content:
    return _Content("application/json", len(data), None, data, policy=policy)


def _file_content(root: int, names: list[str], media_type: str) -> _Content | None:
    """A regular file below a folder; no part of the way is a link, whatever changes meanwhile."""
    with _opened(root, names) as file:
        if file is None:
            return None
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            return None
        tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
        return _Content(media_type, status.st_size, tag, file=os.dup(file))


@contextlib.contextmanager
def _opened(root: int, names: list[str]) -> Iterator[int | None]:
    held: list[int] = []
    try:
        place = root
        try:
            for number, name in enumerate(names):
                last = number == len(names) - 1
                # O_NONBLOCK: a pipe would be waited for
                kind = os.O_NONBLOCK if last else os.O_DIRECTORY
                place = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=place)
                held.append(place)
        except (OSError, ValueError):
            yield None
            return
        yield place
    finally:
        for file in held:
            os.close(file)
