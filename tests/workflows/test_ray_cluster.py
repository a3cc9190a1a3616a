"""The cluster file is one that Ray's launcher takes, it does not open a door, and what it installs is pinned.

Commands are taken apart as a shell would, so that a fact holds of what is run and not of how a line is spelled; each
fact is also tried on a file that breaks it.
"""

from __future__ import annotations

import copy
import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]
CLUSTER_FILE = ROOT / "ray_cluster.yaml"
Cluster = dict[str, Any]


@pytest.fixture
def cluster() -> Cluster:
    loaded: Cluster = yaml.safe_load(CLUSTER_FILE.read_text(encoding="utf-8"))
    return loaded


# --- reading the file ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One program that a command line starts."""

    environment: dict[str, str]
    words: list[str]

    @property
    def program(self) -> str:
        return self.words[0].rsplit("/", 1)[-1]

    def option(self, name: str) -> str | None:
        """Value of ``--name=value`` or ``--name value``; None if it is not given."""
        for word, following in zip(self.words, [*self.words[1:], ""], strict=True):
            if word == name:
                return following
            if word.startswith(f"{name}="):
                return word.partition("=")[2]
        return None


def calls(cluster: Cluster, *lists: str) -> list[Call]:
    """Every program that the command lists start; all lists by default."""
    names = lists or [name for name in cluster if name.endswith("_commands")]
    return [call for name in names for line in cluster.get(name, []) for call in _calls_of(line)]


def _calls_of(line: str) -> Iterator[Call]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    part: list[str] = []
    for word in [*lexer, ";"]:
        if not re.fullmatch(r"[();<>|&]+", word):
            part.append(word)
            continue
        environment = {}
        while part and re.match(r"\w+=", part[0]):
            key, _, value = part.pop(0).partition("=")
            environment[key] = value
        if part:
            yield Call(environment, part)
        part = []


def ray_starts(cluster: Cluster, node: str) -> list[Call]:
    return [c for c in calls(cluster, f"{node}_start_ray_commands") if c.program == "ray" and c.words[1] == "start"]


def leaves(value: Any) -> Iterator[str]:
    """Every scalar of a document, as text."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    if inner is None:
        yield str(value)
    else:
        for part in inner:
            yield from leaves(part)


# --- the facts ----------------------------------------------------------------------------------------------------


def every_ray_demands_the_token(cluster: Cluster) -> None:
    for node in ("head", "worker"):
        assert len(ray_starts(cluster, node)) == 1, f"{node}: one ray start"
    for call in calls(cluster):
        if call.program == "ray":
            assert call.environment.get("RAY_AUTH_MODE") == "token", f"{call.words} without the token"


def the_token_is_a_private_file_and_nowhere_else(cluster: Cluster) -> None:
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    modes = {c.words[2]: c.words[1] for c in calls(cluster, "setup_commands") if c.program == "chmod"}
    assert (modes["~/.ray"], modes["~/.ray/auth_token"]) == ("700", "600")
    assert not [text for text in leaves(cluster) if "RAY_AUTH_TOKEN" in text]


def nothing_listens_or_lets_in_beyond_the_group(cluster: Cluster) -> None:
    (head,) = ray_starts(cluster, "head")
    host = head.option("--dashboard-host")
    assert host is not None, "Ray's own default may change"
    assert ip_address(host).is_loopback
    for text in leaves(cluster):
        assert not re.search(r"(?<![\d.])0\.0\.0\.0|(?<![\w:])::(/0|$)", text), f"open to the world: {text}"
    # The group that Ray makes by itself lets ssh in from anywhere: every node type must name its own.
    assert "security_group" not in cluster["provider"]
    for name, node in cluster["available_node_types"].items():
        groups = node["node_config"].get("SecurityGroupIds")
        assert groups, f"{name} names no security group"
        assert all(re.fullmatch(r"sg-[0-9a-f]{8,17}", group) for group in groups)
        assert node["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        for device in node["node_config"]["BlockDeviceMappings"]:
            assert device["Ebs"]["Encrypted"] is True


def workers_find_the_head(cluster: Cluster) -> None:
    (head,), (worker,) = ray_starts(cluster, "head"), ray_starts(cluster, "worker")
    assert "--head" in head.words
    assert "--head" not in worker.words
    assert worker.option("--address") == f"$RAY_HEAD_IP:{head.option('--port')}"
    assert worker.option("--object-manager-port") == head.option("--object-manager-port")
    assert head.option("--autoscaling-config") == "~/ray_bootstrap_config.yaml"


def what_is_installed_is_the_wheel_at_pinned_versions(cluster: Cluster) -> None:
    installs = [c for c in calls(cluster) if c.program.startswith("pip") and "install" in c.words]
    assert installs
    mounts = cluster["file_mounts"]
    for call in installs:
        constraints = call.option("-c")
        assert constraints in mounts, f"{call.words} without constraints"
        assert (ROOT / mounts[constraints]).samefile(ROOT / "constraints.txt")
        assert not {"-U", "--upgrade", "--index-url", "--extra-index-url", "--pre", "-i"} & set(call.words)
    wanted = [word for call in installs for word in call.words if word.endswith(".whl")]
    assert len(wanted) == 1
    folder, _, name = wanted[0].rpartition("/")
    assert re.fullmatch(r"spex_landcover-.*\.whl", name)
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"-w {mounts[folder]} " in recipe, "make wheel writes where the cluster file looks"


def gpu_workers_are_spot_and_scale_to_zero_and_the_head_stays(cluster: Cluster) -> None:
    types = cluster["available_node_types"]
    head = types[cluster["head_node_type"]]
    workers = [node for name, node in types.items() if name != cluster["head_node_type"]]
    assert "InstanceMarketOptions" not in head["node_config"], "a head on spot takes the run with it"
    assert head["resources"]["GPU"] == 0
    assert workers
    for worker in workers:
        assert worker["min_workers"] == 0
        assert 0 < worker["max_workers"] <= cluster["max_workers"]
        assert worker["resources"]["GPU"] >= 1
        assert worker["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert 0 < cluster["idle_timeout_minutes"] <= 15
    assert cluster["provider"]["cache_stopped_nodes"] is False


def rays_own_schema_takes_it(cluster: Cluster) -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(cluster, schema)
    prepared = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)
    assert prepared["head_node_type"] == cluster["head_node_type"]


FACTS: tuple[Callable[[Cluster], None], ...] = (
    every_ray_demands_the_token,
    the_token_is_a_private_file_and_nowhere_else,
    nothing_listens_or_lets_in_beyond_the_group,
    workers_find_the_head,
    what_is_installed_is_the_wheel_at_pinned_versions,
    gpu_workers_are_spot_and_scale_to_zero_and_the_head_stays,
    rays_own_schema_takes_it,
)


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.__name__)
def test_the_cluster_file(fact: Callable[[Cluster], None], cluster: Cluster) -> None:
    fact(cluster)


# --- and each can fail --------------------------------------------------------------------------------------------


def _replaced(field: str, old: str, new: str) -> Callable[[Cluster], None]:
    def change(cluster: Cluster) -> None:
        before = list(cluster[field])
        cluster[field] = [line.replace(old, new) for line in before]
        assert cluster[field] != before

    return change


def _set(path: str, value: Any) -> Callable[[Cluster], None]:
    def change(cluster: Cluster) -> None:
        *outer, last = path.split(" > ")
        for name in outer:
            cluster = cluster[name]
        if value is None:
            del cluster[last]
        else:
            cluster[last] = value

    return change


HEAD, WORKER = "head_start_ray_commands", "worker_start_ray_commands"
NODE = "available_node_types"
BREAKING: tuple[tuple[Callable[[Cluster], None], Callable[[Cluster], None]], ...] = (
    (every_ray_demands_the_token, _replaced(WORKER, "; RAY_AUTH_MODE=token", ";")),
    (every_ray_demands_the_token, _replaced(HEAD, "; RAY_AUTH_MODE=token", "; echo RAY_AUTH_MODE=token &&")),
    (every_ray_demands_the_token, _replaced(HEAD, "RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled")),
    (every_ray_demands_the_token, _set("head_setup_commands", ["~/spex/venv/bin/ray start --head"])),
    (the_token_is_a_private_file_and_nowhere_else, _replaced("setup_commands", "chmod 600", "chmod 644")),
    (the_token_is_a_private_file_and_nowhere_else, _set("initialization_commands", ["export RAY_AUTH_TOKEN=abc"])),
    (nothing_listens_or_lets_in_beyond_the_group, _replaced(HEAD, "host=127.0.0.1", "host=0.0.0.0")),
    (nothing_listens_or_lets_in_beyond_the_group, _replaced(HEAD, "--dashboard-host=127.0.0.1 ", "")),
    (nothing_listens_or_lets_in_beyond_the_group, _set(f"{NODE} > worker.gpu > node_config > SecurityGroupIds", None)),
    (nothing_listens_or_lets_in_beyond_the_group, _set("provider > security_group", {"GroupName": "open"})),
    (workers_find_the_head, _replaced(HEAD, "--port=6379", "--port=6380")),
    (what_is_installed_is_the_wheel_at_pinned_versions, _replaced("setup_commands", "-c ~/spex/constraints.txt", "")),
    (what_is_installed_is_the_wheel_at_pinned_versions, _set("file_mounts > ~/spex/dist", "wheels")),
    (gpu_workers_are_spot_and_scale_to_zero_and_the_head_stays, _set(f"{NODE} > worker.gpu > min_workers", 1)),
    (rays_own_schema_takes_it, _set("idle_timeout_minuts", 5)),
    (rays_own_schema_takes_it, _set("max_workers", "eight")),
)


@pytest.mark.parametrize(("fact", "break_it"), BREAKING, ids=[f"{i}-{f.__name__}" for i, (f, _) in enumerate(BREAKING)])
def test_a_file_that_breaks_a_fact_is_noticed(
    fact: Callable[[Cluster], None], break_it: Callable[[Cluster], None], cluster: Cluster
) -> None:
    break_it(cluster)
    with pytest.raises((AssertionError, KeyError, jsonschema.ValidationError)):
        fact(cluster)
