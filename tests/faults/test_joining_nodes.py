"""The run of :mod:`tests.faults.joining_nodes`, in a process of its own; a long test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.long]


def test_a_cluster_without_a_node_is_asked_and_nodes_that_join_in_mid_run_do_their_share() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.faults.joining_nodes"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    result = json.loads(ran.stdout.splitlines()[-1])
    grown, still = result["grown"], result["still"]
    assert result["same"], "the map is the undisturbed one, byte for byte"
    assert (grown["finished"], grown["failed"]) == (still["finished"], still["failed"]) == (16, 0)
    assert set(grown["classified"]) == set(result["joined"]), "both nodes classified"
    assert grown["told"], "people are told that the run waits for machines"
