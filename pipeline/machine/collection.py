"""Python's search for unreachable cycles, paused while very many objects are made that all stay.

A plan of 100,000 blocks is more than two million objects without a cycle; looking through them again and again while
they are made costs as much time as making them.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Iterator[None]:
    """Pauses the search in this process; where it is paused already, it stays so afterwards."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
