"""A small archive, written once per session."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.simulation.archive import DEMO_SPEC, Archive, ArchiveSpec, write_archive
from pipeline.simulation.clouds import Clouds
from pipeline.simulation.granules import granule_grid
from pipeline.simulation.scene import Acquisition


def small_spec(**changes: object) -> ArchiveSpec:
    """Two granules of 192 px that share 64 px, two dates; corners of the demo's world."""
    spec = replace(
        DEMO_SPEC,
        granules=granule_grid(32632, 643_000, 5_147_000, size_px=192, overlap_px=64, columns=2),
        acquisitions=(
            Acquisition(dt.datetime(2026, 6, 18, 10, 15, 59, tzinfo=dt.UTC), Clouds(seed=3, level=0.0, size_m=900.0)),
            Acquisition(
                dt.datetime(2026, 7, 3, 10, 15, 59, tzinfo=dt.UTC),
                Clouds(seed=4),
                swath_edge=(645_600.0, 5_146_000.0, 0.2),
            ),
        ),
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def spec() -> ArchiveSpec:
    return small_spec()


@pytest.fixture(scope="session")
def archive(spec: ArchiveSpec, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    folder: Path = tmp_path_factory.mktemp("archive") / "s2"
    return write_archive(folder, spec, "http://127.0.0.1:1/base")
