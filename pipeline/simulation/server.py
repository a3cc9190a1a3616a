"""Serves an archive on loopback as providers do: files over HTTP with range requests, items through a STAC API."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pipeline.errors import CatalogError, OutputError
from pipeline.simulation import file_server as _file_server

_START_SECONDS = 30.0


class ArchiveServer:
    """A running file server: its address, and the means to make it fail."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.base_url = f"http://127.0.0.1:{self._line()}"
        """Where the folder is served, without a slash at the end."""

    def fail_next(self, path_substring: str, status: int = 503, times: int = 1) -> None:
        """Answers the next ``times`` requests whose path contains ``path_substring`` with an HTTP error."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([path_substring, status, times]) + "\n")
        self._process.stdin.flush()
        self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise OutputError("the file server of the simulated archive did not start")
        return line


@contextlib.contextmanager
def file_server(folder: Path) -> Iterator[ArchiveServer]:
    """Serves ``folder`` over HTTP on loopback in a process of its own; see :mod:`.file_server` for why.

    Raises:
        OutputError: It did not start.
    """
    command = [sys.executable, "-I", str(Path(_file_server.__file__)), str(Path(folder).resolve())]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield ArchiveServer(process)
    finally:
        _end(process)


@contextlib.contextmanager
def serve_files(folder: Path) -> Iterator[str]:
    """Serves ``folder`` over HTTP on loopback with range requests and yields the base URL."""
    with file_server(folder) as server:
        yield server.base_url


@contextlib.contextmanager
def serve_stac(items_json_path: Path) -> Iterator[str]:
    """Serves an item collection through a STAC API (``rustac serve``, in memory) and yields the API's root URL.

    Raises:
        CatalogError: The ``rustac`` program is missing, does not start, or cannot read the items.
    """
    items = Path(items_json_path).resolve()
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        _rustac(),
        "serve",
        "--use-duckdb",
        "false",
        "--create-collections",
        "--addr",
        url,
        "--bind",
        f"127.0.0.1:{port}",
        str(items),
    ]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            _wait_until_ready(process, url, log)
            yield url
        finally:
            _end(process)


def _end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """Ends a process for certain and closes its pipes."""
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _rustac() -> str:
    beside = shutil.which("rustac", path=str(Path(sys.executable).parent))
    program = beside or shutil.which("rustac")
    if program is None:
        raise CatalogError("the program 'rustac' is missing; it comes with the Python package 'rustac'")
    return program


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: IO[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            log.seek(0)
            said = log.read().decode(errors="replace").strip()[-500:]
            raise CatalogError(f"'rustac serve' ended with code {process.returncode}: {said}")
        try:
            with urllib.request.urlopen(f"{url}/collections", timeout=2) as answer:
                if json.load(answer).get("collections"):
                    return
        except (OSError, urllib.error.URLError, ValueError):
            pass
        time.sleep(0.05)
    raise CatalogError(f"'rustac serve' did not answer at {url} within {_START_SECONDS:.0f} s")
