"""A cleaned run is as finished as before: the same command computes and writes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

import pipeline
from pipeline.engine.cluster import Cluster
from pipeline.machine.progress import LogProgress
from pipeline.runs.clean import free, take_stock
from pipeline.runs.dry_run import look_ahead
from tests.conftest import tiny_config

pytestmark = [pytest.mark.ray, pytest.mark.long]


def test_a_cleaned_run_is_still_finished_and_other_settings_are_computed(
    local_ray: Cluster, tiny_archive: Path, tmp_path: Path
) -> None:
    config = tiny_config(tiny_archive, tmp_path)
    assert look_ahead(config, LogProgress()).blocks_to_compute == 4
    first = pipeline.run(config)
    ahead = look_ahead(config, LogProgress())
    assert (ahead.published, ahead.blocks_done, ahead.blocks_to_compute) == (True, 4, 0)
    assert free(take_stock(tmp_path)) > 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"}
    ahead = look_ahead(config, LogProgress())
    assert (ahead.published, ahead.blocks_done, ahead.blocks_to_compute) == (True, 0, 0)
    again = pipeline.run(config)
    assert (again.reused, again.outputs) == (True, first.outputs)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"}
    assert after == before
    # The map is gone: it is computed again.
    landcover = first.outputs["landcover"][0]
    bytes_before = landcover.read_bytes()
    landcover.unlink()
    third = pipeline.run(config)
    assert (third.reused, third.computed_blocks) == (False, 4)
    assert landcover.read_bytes() == bytes_before
