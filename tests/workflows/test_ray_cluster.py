"""The cluster file is one that Ray's launcher takes, and it does not open a door."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTER_FILE = Path(__file__).resolve().parents[2] / "ray_cluster.yaml"


@pytest.fixture
def cluster() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(CLUSTER_FILE.read_text(encoding="utf-8"))
    return loaded


def test_passes_the_schema_of_rays_launcher_before_and_after_defaults(cluster: dict[str, Any]) -> None:
    prepared = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)
    assert prepared["head_node_type"] == "head.cpu"
    assert prepared["available_node_types"]["worker.gpu"]["max_workers"] == 8


def test_schema_would_refuse_a_misspelt_field(cluster: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="idle_timeout_minuts"):
        validate_config(prepare_config({**cluster, "idle_timeout_minuts": 5}))


def test_gpu_workers_are_spot_and_scale_to_zero(cluster: dict[str, Any]) -> None:
    worker, head = (cluster["available_node_types"][name] for name in ("worker.gpu", "head.cpu"))
    assert worker["min_workers"] == 0
    assert worker["resources"]["GPU"] == 1
    assert worker["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["resources"]["GPU"] == 0
    assert 0 < cluster["idle_timeout_minutes"] <= 15
    assert cluster["provider"]["cache_stopped_nodes"] is False


def test_every_ray_process_demands_the_token_and_the_token_is_not_in_the_file(cluster: dict[str, Any]) -> None:
    starts = cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "RAY_AUTH_TOKEN=" not in CLUSTER_FILE.read_text(encoding="utf-8")


def test_no_port_is_open_to_the_world(cluster: dict[str, Any]) -> None:
    head_start = cluster["head_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in head_start
    assert "0.0.0.0" not in CLUSTER_FILE.read_text(encoding="utf-8")
    # The group that Ray makes by itself lets ssh in from anywhere: every node type must name its own.
    assert all(node["node_config"]["SecurityGroupIds"] for node in cluster["available_node_types"].values())
    assert "security_group" not in cluster["provider"]


def test_nodes_install_the_wheel_with_the_pinned_versions(cluster: dict[str, Any]) -> None:
    install = next(command for command in cluster["setup_commands"] if "pip install" in command)
    assert "-c ~/spex/constraints.txt" in install
    assert "spex_landcover-*.whl" in install
    assert {"~/spex/dist", "~/spex/constraints.txt"} <= set(cluster["file_mounts"])
