"""Two trials of :mod:`tests.faults.real_machines`, in a process of its own; a long test. ``make faults`` runs sixty."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.long]


def test_nodes_that_go_in_mid_run_leave_the_map_as_it_is() -> None:
    command = [sys.executable, "-m", "tests.faults.real_machines", "--trials", "2", "--first", "3"]
    ran = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=500, check=False
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-1000:]
    result = json.loads(ran.stdout.splitlines()[-1])
    assert result["bad"] == 0
    assert sum(result["faults"].values()) >= 2
