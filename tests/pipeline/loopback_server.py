"""A small HTTP server on loopback whose answers a test scripts. Test support, not a test."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Response:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def json_response(document: Any, status: int = 200) -> Response:
    return Response(status, json.dumps(document).encode(), {"Content-Type": "application/json"})


@dataclass
class Server:
    url: str
    requests: list[Request]


@contextlib.contextmanager
def serve(answer: Callable[[Request], Response]) -> Iterator[Server]:
    """Serves on a free loopback port until the block ends; every request is logged in order."""
    log: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # headers and body go out in two pieces

        def _answer(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            request = Request(
                self.command, parts.path, parse_qs(parts.query), dict(self.headers), json.loads(raw) if raw else None
            )
            log.append(request)
            response = answer(request)
            if response.status == 0:  # the script asks for a broken connection
                self.close_connection = True
                return
            self.send_response(response.status)
            for name, value in response.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(response.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(response.body)

        do_GET = do_POST = do_HEAD = do_PUT = _answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{server.server_address[1]}", log)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def file_answer(root: Path, request: Request) -> Response:
    """A file below ``root``, whole or one byte range, as object stores answer."""
    path = root / request.path.lstrip("/")
    if not path.is_file():
        return Response(404)
    data = path.read_bytes()
    wanted = next((v for k, v in request.headers.items() if k.lower() == "range"), None)
    if wanted is None:
        return Response(200, data, {"Accept-Ranges": "bytes"})
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    start = int(first)
    stop = min(int(last) + 1 if last else len(data), len(data))
    if start >= len(data):
        return Response(416, b"", {"Content-Range": f"bytes */{len(data)}"})
    content_range = f"bytes {start}-{stop - 1}/{len(data)}"
    return Response(206, data[start:stop], {"Accept-Ranges": "bytes", "Content-Range": content_range})
