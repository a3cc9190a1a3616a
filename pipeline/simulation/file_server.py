"""A read-only HTTP server with range requests, a process of its own: ``python file_server.py FOLDER``.

It is not a thread, because GDAL opens files while Python's lock is held: a server in the same process could never
answer. Only the standard library is imported, so that it starts at once. It prints its port, obeys lines of JSON on its
standard input (planned failures, for tests) and ends when that closes, so it never outlives its parent.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_CHUNK_BYTES = 1 << 16
_TYPES = {".json": "application/json", ".geojson": "application/geo+json", ".tif": "image/tiff"}


class FileServer(ThreadingHTTPServer):
    """A read-only HTTP server below one folder; can be told to fail."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder.resolve()
        self._lock = threading.Lock()
        self._failures: list[tuple[str, int, int]] = []

    @property
    def base_url(self) -> str:
        """Where the folder is served, without a slash at the end."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fail_next(self, path_substring: str, status: int = 503, times: int = 1) -> None:
        """Answers the next ``times`` requests whose path contains ``path_substring`` with an HTTP error."""
        with self._lock:
            self._failures.append((path_substring, status, times))

    def planned_failure(self, path: str) -> int | None:
        """Takes one planned failure that fits this path: its HTTP status."""
        with self._lock:
            for i, (part, status, times) in enumerate(self._failures):
                if part in path:
                    if times > 1:
                        self._failures[i] = (part, status, times - 1)
                    else:
                        del self._failures[i]
                    return status
        return None

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up in the middle of an answer (GDAL does) are no error of the server."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer
    timeout = 60

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the demo's terminal is for the run."""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        failure = self.server.planned_failure(path)
        if failure is not None:
            self._empty(HTTPStatus(failure))
            return
        try:
            file = (self.server.folder / path.lstrip("/")).resolve()
            inside = file.is_relative_to(self.server.folder) and file.is_file()
        except (OSError, ValueError):  # names that no file can have
            inside = False
        if not inside:
            self._empty(HTTPStatus.NOT_FOUND)
            return
        with file.open("rb") as source:
            size = file.stat().st_size
            first, last, status = 0, size - 1, HTTPStatus.OK
            asked = _RANGE.fullmatch(self.headers.get("Range", "").strip())
            if asked and (asked[1] or asked[2]):
                # "a-b", "a-" (to the end) or "-n" (the last n bytes); RFC 9110 section 14.
                first = int(asked[1]) if asked[1] else max(size - int(asked[2]), 0)
                last = min(int(asked[2]), size - 1) if asked[1] and asked[2] else size - 1
                unsatisfiable = first >= size or (not asked[1] and int(asked[2]) == 0)
                if unsatisfiable:
                    self._empty(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, {"Content-Range": f"bytes */{size}"})
                    return
                # A range that ends before it starts is not a range at all: the whole file is the answer.
                first, last, status = (
                    (first, last, HTTPStatus.PARTIAL_CONTENT) if last >= first else (0, size - 1, status)
                )
            self.send_response(status)
            self.send_header("Content-Type", _TYPES.get(file.suffix, "application/octet-stream"))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(last - first + 1))
            if status == HTTPStatus.PARTIAL_CONTENT:
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.end_headers()
            if with_body:
                source.seek(first)
                left = last - first + 1
                while left > 0 and (chunk := source.read(min(_CHUNK_BYTES, left))):
                    self.wfile.write(chunk)
                    left -= len(chunk)

    def _empty(self, status: HTTPStatus, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


def main(folder: str) -> None:
    """Serves ``folder`` until standard input ends. Each input line is ``[path_substring, status, times]``."""
    server = FileServer(Path(folder))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    print(server.server_address[1], flush=True)
    for line in sys.stdin:
        part, status, times = json.loads(line)
        server.fail_next(part, status, times)
        print("ok", flush=True)
    server.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
