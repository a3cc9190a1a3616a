"""``--address auto`` means a cluster, and never the Ray that another run has started for itself."""

from __future__ import annotations

from typing import Any

import psutil
import pytest

from pipeline.engine import running_ray
from pipeline.engine.running_ray import address_to_join
from pipeline.errors import ClusterError

RAYLET = "/x/ray/core/src/ray/raylet/raylet"


def raylet(address: str, folder: str) -> list[str]:
    return [
        RAYLET,
        f"--raylet_socket_name={folder}/session_1/sockets/raylet",
        f"--python_worker_command=python default_worker.py --gcs-address={address} --temp-dir={folder}",
        f"--gcs-address={address}",
    ]


CLUSTER = raylet("10.0.0.1:6379", "/tmp/ray")
OTHER = raylet("10.0.0.2:6379", "/scratch/ray")
PRIVATE = raylet("127.0.0.1:40001", "/tmp/spex-ray-ab12cd/ray")
PRIVATE_TOO = raylet("127.0.0.1:40002", "/var/tmp/spex-ray-zz/ray")
OTHERS = [["bash"], [], ["vi", "--gcs-address=10.9.9.9:1"], ["ray::IDLE"]]


@pytest.mark.parametrize(
    ("processes", "written", "variable", "found"),
    [
        ([CLUSTER], None, None, "10.0.0.1:6379"),
        ([PRIVATE, CLUSTER], None, None, "10.0.0.1:6379"),
        ([PRIVATE, CLUSTER, OTHER], "10.0.0.2:6379", None, "10.0.0.2:6379"),
        ([PRIVATE], "10.0.0.7:6379", None, "10.0.0.7:6379"),
        ([PRIVATE], None, "ray://head:10001", "ray://head:10001"),
        ([PRIVATE, CLUSTER], "127.0.0.1:40001", " ", "10.0.0.1:6379"),
        ([CLUSTER, PRIVATE], "127.0.0.1:40001", "auto", "10.0.0.1:6379"),
        ([PRIVATE], None, None, "1 private one of other spex runs"),
        ([PRIVATE, PRIVATE_TOO], "127.0.0.1:40001", None, "2 private ones"),
        ([], None, None, "no Ray cluster runs on this machine: start one"),
        ([CLUSTER, OTHER, PRIVATE], None, None, "10.0.0.1:6379, 10.0.0.2:6379"),
        ([CLUSTER], None, "local", "RAY_ADDRESS is 'local'"),
    ],
)
def test_auto_is_a_cluster_or_a_refusal(
    monkeypatch: pytest.MonkeyPatch,
    processes: list[list[str]],
    written: str | None,
    variable: str | None,
    found: str,
) -> None:
    class Process:
        def __init__(self, command: list[str]) -> None:
            self._command = command

        def cmdline(self) -> list[str]:
            if not self._command:
                raise psutil.NoSuchProcess(1)
            return self._command

    def listed() -> Any:
        return map(Process, [*OTHERS, *processes])

    monkeypatch.setattr(psutil, "process_iter", listed)
    monkeypatch.setattr(running_ray, "_written_down", lambda: written)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    if " " not in found and "'" not in found:
        assert address_to_join("auto") == found
        return
    with pytest.raises(ClusterError) as caught:
        address_to_join("auto")
    assert found in str(caught.value)


@pytest.mark.parametrize("address", ["ray://head:10001", "10.0.0.1:6379"])
def test_an_address_is_taken_as_it_is(address: str) -> None:
    assert address_to_join(address) == address
