"""Rasters that stay open from one reading of a process to the next, with what GDAL has decoded of them.

The blocks of a run read neighbouring windows of the same few files. Opened anew for each, a file would cost its header
every time, and its tiles on the border of two windows would be fetched and decoded twice: files are tiled in 512 or
1,024 px, windows are not.
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

KEPT_FILES = 96
"""Files of a process that wait, open, for their next reading; the least used are closed."""


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class OpenRaster:
    """A raster that is open, used by one thread at a time."""

    dataset: Any
    """Of rasterio."""
    check: Callable[[], None] = _nothing
    """Raises what GDAL could not tell of the last reading."""
    rest: Callable[[], None] = _nothing
    """Lets go of bytes that only the last reading needed."""
    _opened_in: contextvars.Context = field(default_factory=contextvars.copy_context)
    """rasterio notes what it has open for GDAL in the context of the thread that opened it. Closed in another one, such
    a file ends with an error of GDAL on the console."""

    def close(self) -> None:
        """Closes the file, whatever state it is in."""
        with contextlib.suppress(Exception):
            self._opened_in.run(self.dataset.close)


class OpenFiles:
    """Open rasters by what they were opened from. For all threads of a process."""

    def __init__(self, limit: int = KEPT_FILES) -> None:
        self._limit = limit
        self._waiting: OrderedDict[tuple[Hashable, int], OpenRaster] = OrderedDict()
        self._kept = 0
        self._lock = threading.Lock()

    def take(self, key: Hashable) -> OpenRaster | None:
        """An open raster of that name, which is the caller's from now on; None if there is none."""
        with self._lock:
            found = next((place for place in reversed(self._waiting) if place[0] == key), None)
            return None if found is None else self._waiting.pop(found)

    def keep(self, key: Hashable, raster: OpenRaster) -> None:
        """Takes a raster back that was read without an error."""
        raster.rest()
        with self._lock:
            self._kept += 1
            self._waiting[key, self._kept] = raster
            excess = [self._waiting.popitem(last=False)[1] for _ in range(len(self._waiting) - self._limit)]
        for old in excess:
            old.close()

    def close(self) -> None:
        """Closes all that wait."""
        with self._lock:
            rasters, self._waiting = [*self._waiting.values()], OrderedDict()
        for raster in rasters:
            raster.close()


open_files = OpenFiles()
atexit.register(open_files.close)  # before GDAL and rasterio are half gone
"""Those of this process."""
