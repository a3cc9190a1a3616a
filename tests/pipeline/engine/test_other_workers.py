"""Workers of a real Ray that hold other versions than the driver are refused by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from pipeline.engine.cluster import Cluster
from pipeline.engine.ray_errors import plain_error
from pipeline.engine.tasks import ZoneContext, read_block
from pipeline.errors import WorkerMismatchError
from pipeline.planning.software import software_versions
from pipeline.predict.classifier import BlockClassifier, ClassifierSettings
from pipeline.settings.run_file import CompositeConfig, ModelConfig, TilingConfig
from tests.pipeline.small_plans import LEGEND, zone_of

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[3]
TILING = TilingConfig(tile_px=64, overlap_px=16, block_px=128)


@pytest.fixture
def other_installation(tmp_path: Path) -> dict[str, Any]:
    """The environment of a worker that finds another numpy than the driver's."""
    metadata = tmp_path / "numpy-2.4.1.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 2.4.1\n", encoding="utf-8")
    return {"env_vars": {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}}


def refusal(reference: Any) -> Exception:
    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        ray.get(reference)
    return plain_error(caught.value)


def test_an_actor_and_a_reader_of_another_installation_are_refused(
    local_ray: Cluster, other_installation: dict[str, Any], tmp_path: Path
) -> None:
    zone = zone_of(64, 64, TILING)
    planned = software_versions()
    settings = ClassifierSettings(ModelConfig(checkpoint="index-rules"), LEGEND, TILING, (zone,), 1, 0.0, planned)
    context = ZoneContext(zone.grid, (), CompositeConfig(), None, LEGEND, tmp_path, software=planned)
    there = {"runtime_env": other_installation, "num_cpus": 0.25, "max_retries": 0}
    actor: Any = ray.remote(BlockClassifier).options(runtime_env=other_installation, num_cpus=0.25).remote(settings)
    reader: Any = ray.remote(read_block).options(num_returns=3, **there)
    for error in (refusal(actor.load.remote()), refusal(reader.remote(context, zone.blocks[0])[2])):
        assert isinstance(error, WorkerMismatchError)
        assert f"numpy 2.4.1 (the driver {np.__version__})" in str(error)
    ray.kill(actor)


def test_workers_of_the_drivers_installation_work(local_ray: Cluster, tmp_path: Path) -> None:
    zone = zone_of(64, 64, TILING)
    planned = software_versions()
    context = ZoneContext(zone.grid, (), CompositeConfig(), None, LEGEND, tmp_path, software=planned)
    reader: Any = ray.remote(read_block).options(num_returns=3, num_cpus=0.25, max_retries=0)
    assert ray.get(reader.remote(context, zone.blocks[0])[2]).empty
