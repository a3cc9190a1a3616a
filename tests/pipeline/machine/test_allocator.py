"""Freed memory is kept: seen by the page faults of a process that asks for the same memory again and again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pipeline.machine.allocator import ENVIRONMENT

FAULTS = """
import resource, sys
import numpy as np
from pipeline.machine.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
np.ones(4_000_000, np.float32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(4_000_000, np.float32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str, **environment: str) -> int:
    plain = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    command = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(command, env=plain | environment, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C library is another one")
def test_memory_is_kept_for_the_next_array() -> None:
    """Ten arrays of 16 MB: with huge pages or without, far fewer pages come in than when each is handed back."""
    assert page_faults("keep") < 0.5 * page_faults("plain")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C library is another one")
def test_what_the_user_has_set_stays() -> None:
    set_by_user = page_faults("keep", MALLOC_MMAP_THRESHOLD_="1048576", MALLOC_TRIM_THRESHOLD_="0")
    assert set_by_user > page_faults("keep")
