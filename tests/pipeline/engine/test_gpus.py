"""Which GPU an actor of a real Ray sees. No GPU is needed: Ray lends numbers, and sets the variable that CUDA reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.cluster import actor_resources
from pipeline.settings.run_file import ComputeConfig

pytestmark = [pytest.mark.ray, pytest.mark.long]

ROOT = Path(__file__).resolve().parents[3]

REPORT = """
import json, os, ray
from pipeline.engine.cluster import actor_resources, connected
from pipeline.settings.run_file import ComputeConfig

class Reporter:
    def seen(self):
        return [int(number) for number in ray.get_gpu_ids()], os.environ["CUDA_VISIBLE_DEVICES"]

def report(compute, gpu=None):
    with connected(compute, gpu=gpu) as cluster:
        actors = [ray.remote(Reporter).options(**actor_resources(compute)).remote() for _ in range(cluster.crew.most)]
        print(json.dumps(ray.get([actor.seen.remote() for actor in actors], timeout=120)))

"""


def reported(script: str, **environment: str) -> list[Any]:
    ran = subprocess.run(
        [sys.executable, "-c", REPORT + script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("[[")]


def test_a_gpu_by_its_number_is_the_only_one_that_the_actors_of_a_local_ray_see() -> None:
    assert actor_resources(ComputeConfig(gpus_per_actor=0.5)) == {"num_cpus": 0.5, "num_gpus": 0.5}
    script = "report(ComputeConfig(gpus_per_actor=0.5, object_store_mb=128), gpu=1)"
    (seen,) = reported(script, CUDA_VISIBLE_DEVICES="4,7")
    assert seen == [[[7], "7"], [[7], "7"]]


def test_actors_share_gpus_as_the_run_file_says() -> None:
    script = """
ray.init(num_cpus=8, num_gpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False)
for each in (0.5, 0.4, 1, 2):
    report(ComputeConfig(gpus_per_actor=each))
"""
    halves, less, whole, both = reported(script)
    for shared in (halves, less):
        assert sorted(visible for _, visible in shared) == ["0", "0", "1", "1"]
    assert sorted(visible for _, visible in whole) == ["0", "1"]
    assert both == [[[0, 1], "0,1"]]
