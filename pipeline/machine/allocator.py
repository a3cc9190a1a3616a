"""What the C library does with freed memory: kept for the next array instead of handed back.

Else the memory of each large array goes back to the kernel and is faulted in again, page by page, for the next one: a
third of a model's CPU time, a fifth of publishing. Workers are told by their environment when they start; a process
that runs already is told by ``mallopt``. Both are glibc's; elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
import os
import sys

KEPT_BYTES = 2**30
"""Memory that a process keeps."""
ENVIRONMENT = {
    # Without it the memory of a GDAL reader grows with every file that it opens: one heap per thread.
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(KEPT_BYTES),
    "MALLOC_TRIM_THRESHOLD_": str(KEPT_BYTES),
}
"""For a process that is to be started."""
_PARAMETERS = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_ARENA_MAX": -8}
"""Numbers of ``malloc.h``."""


def keep_freed_memory() -> None:
    """Sets the calling process so; what the user has set in its environment stays."""
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    for name, number in _PARAMETERS.items():
        if name not in os.environ:
            mallopt(ctypes.c_int(number), ctypes.c_int(int(ENVIRONMENT[name])))
