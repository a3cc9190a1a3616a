"""A remote raster as a file that GDAL reads from: byte ranges by our own HTTP, each request through a door.

GDAL's own HTTP (3.10) follows redirects wherever they lead and resolves names without asking; neither can be switched
off. So GDAL gets no URL at all: it reads through this object, and side-car files do not exist here.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import rasterio
import requests
from rasterio._vsiopener import MultiByteRangeResource
from rasterio.abc import MultiByteRangeResourceContainer
from urllib3.util import Retry

from pipeline.errors import HrefError
from pipeline.imagery.open_files import OpenRaster
from pipeline.imagery.raster_formats import format_of
from pipeline.sources.hrefs import Door
from pipeline.sources.http import session

HEAD_BYTES = 64 * 1024
"""The first request of a file: the header of a COG with its tile index arrives with it."""
MAX_AHEAD_BYTES = 2 * 1024 * 1024
"""Reads one after the other fetch twice as much each time, up to this."""
PARALLEL_RANGES = 4
"""Ranges of one file that are fetched at the same time."""
HEADS_KEPT = 512
"""Heads of files that a process remembers: every window opens its files again."""
_SPANS_KEPT = 4


class RemoteFileError(Exception):
    """Bytes of a remote file cannot be had. ``final``: asking again cannot help."""

    def __init__(self, reason: str, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


@functools.lru_cache(maxsize=16)
def _session(door: Door) -> requests.Session:
    http = session(door, Retry(0, redirect=False))
    http.headers["Accept-Encoding"] = "identity"
    return http


class _Heads:
    """The first bytes and the length of files, by address without signature; the least used are forgotten."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[bytes, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> tuple[bytes, int] | None:
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
            return self._kept.get(name)

    def put(self, name: str, head: bytes, size: int) -> None:
        with self._lock:
            self._kept[name] = (head, size)
            while len(self._kept) > HEADS_KEPT:
                self._kept.popitem(last=False)

    def drop(self, name: str) -> None:
        with self._lock:
            self._kept.pop(name, None)


_heads = _Heads()


class RemoteFile:
    """Random access to one remote file.

    Args:
        url: What is asked for; it may be signed.
        name: The unsigned address, for messages and the memory of heads.
        door: Every request and redirect passes it.
        options: GDAL's names for retries and timeouts, see :func:`pipeline.imagery.gdal_settings.gdal_options`.
    """

    def __init__(self, url: str, name: str, door: Door, options: Mapping[str, Any]) -> None:
        self.url, self.name, self.door = url, name, door
        self.failure: RemoteFileError | None = None
        """The first thing that went wrong. GDAL is only told that there were too few bytes."""
        self._retries = int(options["GDAL_HTTP_MAX_RETRY"])
        self._delay_s = float(options["GDAL_HTTP_RETRY_DELAY"])
        self._retry_status = {int(code) for code in str(options["GDAL_HTTP_RETRY_CODES"]).split(",")}
        self._timeout = (float(options["GDAL_HTTP_CONNECTTIMEOUT"]), float(options["GDAL_HTTP_LOW_SPEED_TIME"]))
        self._whole_s = float(options["GDAL_HTTP_TIMEOUT"])
        self._size: int | None = None
        kept = _heads.get(name)
        if kept is None:
            self.head = self.fetch(0, HEAD_BYTES)
            _heads.put(name, self.head, self.size)
        else:
            self.head, self._size = kept

    @property
    def size(self) -> int:
        """Length of the file, bytes."""
        assert self._size is not None
        return self._size

    def fetch(self, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop`` (exclusive), fewer only at the end of the file.

        Raises:
            RemoteFileError: They cannot be had after all retries.
        """
        for attempt in range(self._retries + 1):
            try:
                return self._ask(start, stop)
            except RemoteFileError as error:
                if error.final or attempt == self._retries:
                    raise
            time.sleep(self._delay_s * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _ask(self, start: int, stop: int) -> bytes:
        try:
            with _session(self.door).get(
                self.url, headers={"Range": f"bytes={start}-{stop - 1}"}, timeout=self._timeout, stream=True
            ) as response:
                return self._bytes(response, start, stop)
        except HrefError as error:
            raise RemoteFileError(f"refused: {error}", final=True) from None
        except requests.TooManyRedirects:
            raise RemoteFileError("it redirects without end", final=True) from None
        except requests.RequestException as error:
            final = isinstance(error, (requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL))
            raise RemoteFileError(f"{type(error).__name__}: {_plain(error)}", final) from None

    def _bytes(self, response: requests.Response, start: int, stop: int) -> bytes:
        status = response.status_code
        if status != 206:
            if status == 200:
                raise RemoteFileError("its server does not serve byte ranges", final=True)
            raise RemoteFileError(f"HTTP response code: {status}", status not in self._retry_status)
        first, size = _content_range(response.headers.get("Content-Range", ""))
        if self._size is not None and size != self._size:
            _heads.drop(self.name)
            raise RemoteFileError("it was changed while it was read", final=True)
        self._size = size
        wanted = min(stop, size) - start
        body, began = bytearray(), time.monotonic()
        for chunk in response.iter_content(1 << 16):
            body += chunk
            if len(body) > wanted:  # to the end otherwise, so that the connection can be used again
                break
            if time.monotonic() - began > self._whole_s:
                raise RemoteFileError(f"it is still coming after {self._whole_s:.0f} s")
        if first != start or len(body) < wanted:
            raise RemoteFileError(f"{len(body)} of {wanted} bytes came from byte {first}, asked from {start}")
        return bytes(body[:wanted])


def _content_range(text: str) -> tuple[int, int]:
    try:
        unit, _, rest = text.partition(" ")
        span, _, size = rest.partition("/")
        if unit.lower() != "bytes":
            raise ValueError(unit)
        return int(span.partition("-")[0]), int(size)
    except ValueError:
        raise RemoteFileError(f"its server answers a range with Content-Range {text[:60]!r}", final=True) from None


def _plain(error: BaseException) -> str:
    """The innermost reason of a network error; the outer texts hold the address, which may be signed."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return str(error)[:200] or type(error).__name__


class _Handle(MultiByteRangeResource):  # type: ignore[misc]
    """One open file as rasterio's plugin wants it. Errors stay in ``RemoteFile.failure``: GDAL cannot carry them."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._position = 0
        self._ahead = HEAD_BYTES
        self._spans: OrderedDict[int, bytes] = OrderedDict({0: file.head})
        """First byte → bytes at hand."""

    def __enter__(self) -> _Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forgets what was read."""
        self._spans.clear()

    def rest(self) -> None:
        """Forgets all but the head."""
        self._spans = OrderedDict({0: self._file.head})

    def tell(self) -> int:
        """Position, bytes."""
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of any file."""
        self._position = offset + (0, self._position, self._file.size)[whence]
        return self._position

    def read(self, count: int = -1) -> bytes:
        """As of any file, but empty after a failure."""
        start = self._position
        stop = self._file.size if count < 0 else min(start + count, self._file.size)
        if start >= stop:
            return b""
        try:
            data = self._at_hand(start, stop) or self._fetched(start, stop)
        except RemoteFileError as error:
            self._file.failure = self._file.failure or error
            return b""
        self._position = start + len(data)
        return data

    def get_byte_ranges(self, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """Several ranges at once, fetched side by side; empty after a failure."""
        spans = [(int(start), int(start) + int(size)) for start, size in zip(offsets, sizes, strict=True)]
        try:
            if len(spans) == 1:
                return [self._at_hand(*spans[0]) or self._file.fetch(*spans[0])]
            with ThreadPoolExecutor(min(PARALLEL_RANGES, len(spans))) as pool:
                return list(pool.map(lambda span: self._at_hand(*span) or self._file.fetch(*span), spans))
        except RemoteFileError as error:
            self._file.failure = self._file.failure or error
            return [bytes(stop - start) for start, stop in spans]

    def _at_hand(self, start: int, stop: int) -> bytes:
        for first, data in self._spans.items():
            if first <= start and stop <= first + len(data):
                return data[start - first : stop - first]
        return b""

    def _fetched(self, start: int, stop: int) -> bytes:
        follows = any(start == first + len(data) for first, data in self._spans.items())
        self._ahead = min(2 * self._ahead, MAX_AHEAD_BYTES) if follows else HEAD_BYTES // 4
        data = self._file.fetch(start, min(max(stop, start + self._ahead), self._file.size))
        self._spans[start] = data
        while len(self._spans) > _SPANS_KEPT:
            # The head stays: GDAL comes back to it.
            del self._spans[next(first for first in self._spans if first)]
        return data[: stop - start]


class _OneFile(MultiByteRangeResourceContainer):  # type: ignore[misc]
    """A file system that holds one file, to be read, and nothing beside it."""

    def __init__(self, path: str, file: RemoteFile) -> None:
        self._path, self._file = path, file
        self.handles: list[_Handle] = []

    def _known(self, path: str) -> None:
        if path != self._path:
            raise FileNotFoundError(path)

    def open(self, path: str, mode: str = "rb", **_: Any) -> _Handle:
        """The file, for reading."""
        self._known(path)
        if mode.strip("b") != "r":
            raise PermissionError(path)
        self.handles.append(_Handle(self._file))
        return self.handles[-1]

    def isfile(self, path: str) -> bool:
        """True for the one file."""
        return path == self._path

    def isdir(self, path: str) -> bool:
        """There are no folders."""
        return False

    def ls(self, path: str) -> list[str]:
        """There is nothing beside the file."""
        return []

    def mtime(self, path: str) -> int:
        """Not known."""
        self._known(path)
        return 0

    def rm(self, path: str) -> None:
        """Nothing is removed."""
        raise PermissionError(path)

    def size(self, path: str) -> int:
        """Length, bytes."""
        self._known(path)
        return self._file.size


def open_remote(url: str, name: str, door: Door, options: Mapping[str, Any]) -> OpenRaster:
    """Opens a remote GeoTIFF or JPEG 2000 file, inside the caller's ``rasterio.Env``.

    Args:
        url: See :class:`RemoteFile`, as the others.
        name: Unsigned address.
        door: What may be asked.
        options: Retries and timeouts.

    Raises:
        RemoteFileError: Bytes cannot be had; of those asked for later, the raster's ``check`` raises it.
        ReadError: It is neither a GeoTIFF nor a JPEG 2000 file.
        rasterio.errors.RasterioError: GDAL cannot open it.
    """
    file = RemoteFile(url, name, door, options)
    driver = format_of(file.head, name)
    # A folder of its own: rasterio knows openers by their folder, and threads read at the same time.
    path = f"{uuid4().hex}/raster"
    container = _OneFile(path, file)

    def check() -> None:
        if file.failure is not None:
            raise file.failure from None

    def rest() -> None:
        for handle in container.handles:
            handle.rest()

    try:
        dataset = rasterio.open(path, driver=driver, sharing=False, opener=container)
    except Exception:
        check()
        raise
    raster = OpenRaster(dataset, check, rest)
    try:
        check()
    except RemoteFileError:
        raster.close()
        raise
    return raster
