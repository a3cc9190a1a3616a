"""What tests of several folders share: one local Ray per session, and one tiny simulated archive."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.cluster import Cluster, connected
from pipeline.settings.run_file import ComputeConfig, RunConfig

LONG = os.environ.get("SPEX_FAULTS") == "1"
"""Set by ``make faults``."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests run where they are asked for."""
    for item in items:
        if item.get_closest_marker("long") and not LONG:
            item.add_marker(pytest.mark.skip(reason="long: SPEX_FAULTS=1, or make faults"))


@pytest.fixture(scope="session", autouse=True)
def _cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Models that runs keep are kept for the session, not in the home of whoever tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def local_ray() -> Iterator[Cluster]:
    """A local Ray that runs of the same process find and use; starting one takes seconds."""
    with connected(ComputeConfig(actors=2, object_store_mb=256)) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def tiny_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See :func:`write_tiny_archive`."""
    return write_tiny_archive(tmp_path_factory.mktemp("archive"))


def write_tiny_archive(folder: Path) -> Path:
    """Two dates of one granule of 256 px without clouds, as a static catalog."""
    from pipeline.simulation import DEMO_SPEC, ArchiveSpec, write_archive
    from pipeline.simulation.clouds import Clouds
    from pipeline.simulation.granules import granule_grid
    from pipeline.simulation.scene import Acquisition

    clear = Clouds(seed=1, level=-9.0, cirrus=-9.0)
    spec = ArchiveSpec(
        world=DEMO_SPEC.world,
        granules=granule_grid(32632, 640_000, 5_150_000, size_px=256, overlap_px=32),
        acquisitions=tuple(
            Acquisition(dt.datetime(2026, month, 18, 10, 15, 59, tzinfo=dt.UTC), dataclasses.replace(clear, seed=month))
            for month in (6, 7)
        ),
    )
    return write_archive(folder, spec, str(folder)).folder


TINY_SETTINGS: dict[str, Any] = {
    "name": "tiny",
    "start": "2026-06-01",
    "end": "2026-07-31",
    "model": {"checkpoint": "index-rules"},
    # The granule of 256 px gives 2 x 2 blocks whose tiles reach into each other.
    "tiling": {"tile_px": 64, "overlap_px": 16, "block_px": 128},
    "compute": {"actors": 2, "object_store_mb": 256},
}


def tiny_config(archive: Path, output: Path, **settings: Any) -> RunConfig:
    """A run over the tiny archive with the index rules: 4 blocks, a second or two."""
    data = {
        **TINY_SETTINGS,
        "region": str(archive / "region.geojson"),
        "output": str(output),
        "source": {"provider": "earth-search", "url": str(archive / "catalog.json")},
        **settings,
    }
    return RunConfig.from_dict(data)
