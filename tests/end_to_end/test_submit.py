"""``spex submit`` and ``spex run --address`` against a real cluster: a Ray head on loopback with its dashboard."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.conftest import TINY_SETTINGS

pytestmark = pytest.mark.ray

START_S = 90.0


@dataclass(frozen=True)
class Head:
    """A running cluster of one node."""

    dashboard: str
    gcs: str
    environment: dict[str, str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    gcs, dashboard = free_port(), free_port()
    # The cluster is found by its address alone: nothing of another Ray on this machine, and no token of the user's.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    root = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    # The job's entry point says `python`: it must be this one.
    environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), environment.get("PATH", "")))
    with tempfile.TemporaryDirectory(prefix="spex-ray-", dir="/tmp") as folder:
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--temp-dir", folder),
            *("--port", str(gcs), "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)),
            *("--dashboard-agent-listen-port", str(free_port()), "--dashboard-agent-grpc-port", str(free_port())),
            *("--node-ip-address", "127.0.0.1", "--ray-client-server-port", str(free_port())),
            *("--num-cpus", "2", "--object-store-memory", str(256 * 2**20), "--disable-usage-stats"),
        ]
        with (Path(folder) / "start.log").open("w+b") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            try:
                _wait(process, f"http://127.0.0.1:{dashboard}/api/version", Path(log.name))
                yield Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", environment)
            finally:
                _end(process)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.3)
    pytest.fail(f"the Ray head did not start: {log.read_text(errors='replace')[-2000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the head and what it started, and nothing else: they share its session."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
            time.sleep(1)


def run_file(folder: Path, archive: Path) -> Path:
    """A run file whose paths are relative to it."""
    for name in ("region.geojson", "catalog.json"):
        assert (archive / name).is_file()
    path = folder / "tiny run.yaml"
    settings = {
        **TINY_SETTINGS,
        "region": os.path.relpath(archive / "region.geojson", folder),
        "output": "out",
        "source": {"provider": "earth-search", "url": os.path.relpath(archive / "catalog.json", folder)},
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def spex(head: Head, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(command, cwd=cwd, env=head.environment, capture_output=True, text=True, timeout=240)


def digest(folder: Path) -> str:
    names = ("landcover.tif", "confidence.tif")
    return hashlib.sha256(b"".join(next(folder.rglob(name)).read_bytes() for name in names)).hexdigest()


def test_a_submitted_run_writes_the_bytes_of_a_local_one_and_returns_its_exit_code(
    head: Head, tiny_archive: Path, tmp_path: Path
) -> None:
    file = run_file(tmp_path, tiny_archive)
    submitted = spex(head, "submit", str(file), "--address", head.dashboard, "--output", "one", "--json", cwd=tmp_path)
    assert submitted.returncode == 0, submitted.stderr + submitted.stdout
    assert json.loads(submitted.stdout)["blocks"] == 4
    assert "mapping: 4/4 blocks" in submitted.stderr  # the job's log was followed
    assert "WebSocket" not in submitted.stderr  # Ray's own notices
    joined = spex(head, "run", file.name, "--address", head.gcs, "--output", "two", cwd=tmp_path)
    assert joined.returncode == 0, joined.stderr
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    # The same mistakes and gaps end with the same code through the cluster.
    broken = yaml.safe_load(file.read_text()) | {"start": "2020-01-01", "end": "2020-01-31"}
    file.write_text(yaml.safe_dump(broken))
    nothing = spex(head, "submit", str(file), "--address", head.dashboard, cwd=tmp_path)
    assert nothing.returncode == 2, nothing.stdout + nothing.stderr
    assert "Traceback" not in nothing.stdout + nothing.stderr


def test_an_address_where_nothing_answers_is_one_message(tiny_archive: Path, tmp_path: Path) -> None:
    file = run_file(tmp_path, tiny_archive)
    command = [sys.executable, "-m", "pipeline", "submit", str(file), "--address", f"http://127.0.0.1:{free_port()}"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 1
    assert "cannot be submitted" in answer.stderr
    assert "Traceback" not in answer.stderr
