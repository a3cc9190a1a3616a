"""The doors of a local Ray: loopback only, nothing done without the token, nothing left when its driver has gone."""

from __future__ import annotations

import contextlib
import http.client
import importlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from pipeline.engine import local_ray as local
from pipeline.engine.cluster import Cluster, _join
from pipeline.engine.session_guard import TOKEN, TOKEN_VARIABLE, session_processes
from pipeline.errors import ClusterError
from tests.pipeline.engine.ray_session import listening, seconds_until_gone

ROOT = Path(__file__).resolve().parents[3]

CALLS = (
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.JobInfoGcsService/GetAllJobInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.NodeManagerService/ShutdownRaylet",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.ObjectManagerService/Push",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.CoreWorkerService/Exit",
    "/ray.rpc.JobService/SubmitJob",
    "/ray.rpc.ReporterService/GetTraceback",
)
AGENT = "ray::RuntimeEnvAgent"
POSTS = ("/api/jobs/", "/api/job_agent/jobs/", "/get_or_create_runtime_env", "/get_runtime_envs_info")


@pytest.fixture(scope="module")
def session(local_ray: Cluster) -> Path:
    """Folder of the tests' own local Ray, with a worker at work."""
    ray: Any = importlib.import_module("ray")
    if not local_ray.local:
        pytest.skip("these tests were started inside somebody's Ray")
    assert ray.get(ray.remote(num_cpus=0.1)(lambda: os.getpid()).remote(), timeout=120) != os.getpid()
    return Path(os.environ[TOKEN_VARIABLE]).parents[1]


@pytest.fixture(scope="module")
def sockets(session: Path) -> set[tuple[str, str, int]]:
    ours = {p.pid: p for p in (psutil.Process(), *session_processes(session))}
    children = [p for p in psutil.Process().children(recursive=True) if p.pid not in ours]
    assert not [p for p in children if p.name() in ("raylet", "gcs_server") or p.name().startswith("ray::")]
    return listening([*ours.values()])


@pytest.mark.ray
def test_every_socket_of_a_local_ray_listens_on_loopback_only(sockets: set[tuple[str, str, int]]) -> None:
    assert {"gcs_server", "raylet", AGENT} <= {name for name, _, _ in sockets}
    assert len(sockets) >= 6
    assert not [found for found in sockets if not local.is_loopback(found[1])]
    assert not [found for found in sockets if "Dashboard" in found[0]], "the agent offers jobs"


@pytest.mark.ray
def test_whoever_knocks_without_the_token_gets_nothing_done(sockets: set[tuple[str, str, int]], tmp_path: Path) -> None:
    ray: Any = importlib.import_module("ray")
    mark = tmp_path / "done"
    job = json.dumps({"entrypoint": f"touch {mark}"}).encode()
    for name, _, port in sorted(sockets):
        for method, path, body in (("GET", "/", None), ("GET", "/metrics", None), *(("POST", p, job) for p in POSTS)):
            status = http_status(port, method, path, body)
            assert status is None or status >= 400, f"{name} answered {method} {path} with {status}"
        codes = {grpc_code(port, call) for call in CALLS}
        # Each server knows one of the calls, and asks for the token first; the agent speaks HTTP/1.1 alone.
        refused = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED}
        assert codes == refused or (name == AGENT and codes == {grpc.StatusCode.UNAVAILABLE}), (name, codes)
        for noise in (b"\0" * 64, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 200, os.urandom(400)):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as raw:
                raw.sendall(noise)
    assert not mark.exists()
    assert ray.get(ray.remote(num_cpus=0.1)(lambda: 7).remote(), timeout=60) == 7, "the knocking broke it"


@pytest.mark.ray
def test_the_refusal_is_the_tokens(session: Path, sockets: set[tuple[str, str, int]]) -> None:
    """The same call with the token is answered: it is not the wire that fails."""
    port = next(port for name, _, port in sockets if name == "gcs_server")
    token = (session / TOKEN).read_text()
    call = "/ray.rpc.InternalKVGcsService/InternalKVKeys"
    assert grpc_code(port, call) == grpc.StatusCode.UNAUTHENTICATED
    assert grpc_code(port, call, "Bearer " + "0" * len(token)) == grpc.StatusCode.UNAUTHENTICATED
    assert grpc_code(port, call, f"Bearer {token}") == grpc.StatusCode.OK


@pytest.mark.ray
def test_a_foreign_driver_runs_nothing(sockets: set[tuple[str, str, int]], tmp_path: Path) -> None:
    port = next(port for name, _, port in sockets if name == "gcs_server")
    code = textwrap.dedent(f"""
        import ray, ray._private.services as services
        services.resolve_ip_for_localhost = lambda host: host  # the way in that Ray would not take by itself
        ray.init(address="127.0.0.1:{port}", logging_level=40, log_to_driver=False)
        print("DONE", ray.get(ray.remote(num_cpus=0)(lambda: 1).remote(), timeout=20))
    """)
    plain = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"RAY_NUM_REDIS_GET_RETRIES": "1"}
    foreign = [
        plain | {"RAY_AUTH_MODE": "disabled"},
        plain | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64},
    ]
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=e, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for e in foreign
    ]
    for driver in drivers:
        out, said = driver.communicate(timeout=120)
        assert driver.returncode != 0
        assert "DONE" not in out
        assert "uthentication" in said


@pytest.mark.ray
def test_token_and_folders_are_this_users_alone(session: Path) -> None:
    token = session / TOKEN
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text()) == 64
    # Ray opens its own folder to everybody, again and again: the one around it is what nobody else enters.
    assert [stat.S_IMODE(path.stat().st_mode) for path in (session, token.parent)] == [0o700, 0o700]
    written = [p for p in (session / "ray").rglob("*") if p.is_file() and not p.is_symlink()]
    assert not [p for p in written if token.read_bytes() in p.read_bytes()], "the token stands in a log"
    shown = [word for process in session_processes(session) for word in process.cmdline()]
    assert not [word for word in shown if token.read_text() in word]


DRIVER = """
import json, os, sys, time
import psutil
from pipeline.engine.cluster import connected
from pipeline.engine.session_guard import TOKEN_VARIABLE
from pipeline.settings.run_file import ComputeConfig
with connected(ComputeConfig(actors=1, object_store_mb=128)):
    import ray
    @ray.remote
    class Busy:
        def where(self):
            return os.environ["RAY_AUTH_MODE"], os.environ[TOKEN_VARIABLE], os.environ.get("RAY_AUTH_TOKEN")
        def work(self):
            while True:
                sum(range(10**6))
    busy = Busy.remote()
    print(json.dumps(ray.get(busy.where.remote())), flush=True)
    busy.work.remote()
    sys.stdin.readline()
"""


@contextlib.contextmanager
def hostile_driver(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[Any]]]:
    """A driver, killed in the end, in an environment that would open doors, with a home that cannot be written."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"HOME": "/proc/nonexistent", "RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "of-another-cluster"}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        env=environment,
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert driver.stdout is not None
        line = driver.stdout.readline()
        if not line:
            pytest.fail(f"no local Ray: {driver.communicate()[1][-2000:]}")
        yield driver, json.loads(line)
    finally:
        driver.kill()
        driver.communicate()


@pytest.mark.ray
def test_without_a_home_the_token_is_demanded_too_and_nothing_outlives_a_killed_driver(tmp_path: Path) -> None:
    with hostile_driver(tmp_path) as (driver, (mode, path, other)):
        folder = Path(path).parents[1]
        assert (mode, other) == ("token", None)
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
        processes = session_processes(folder)
        assert len(processes) >= 5
        assert set(processes) >= set(ray_children(driver.pid))
        found = listening([psutil.Process(driver.pid), *processes])
        assert not [entry for entry in found if not local.is_loopback(entry[1])]
        assert not [e for e in found if any(grpc_code(e[2], call) == grpc.StatusCode.OK for call in CALLS[:3])]
        bystander = subprocess.Popen(["tail", "-f", str(folder / local.LOCK)], stdout=subprocess.DEVNULL)
        driver.send_signal(signal.SIGKILL)
        seconds = seconds_until_gone(processes, 30)
        assert seconds < 10, [process for process in processes if process.is_running()]
        assert seconds_until_gone([psutil.Process(p) for p in guards(folder)], 10) < 10
        assert not folder.exists()
        assert bystander.poll() is None, "a process of somebody else was ended"
        bystander.kill()
        bystander.wait()


def ray_children(driver: int) -> list[psutil.Process]:
    return [p for p in psutil.Process(driver).children(recursive=True) if "session_guard" not in " ".join(p.cmdline())]


def guards(folder: Path) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(folder) in process.cmdline() and "session_guard" in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


def test_a_port_that_is_open_to_the_world_is_refused(tmp_path: Path) -> None:
    """Whatever Ray's insides do: what counts is where its processes listen."""
    (tmp_path / "auth").mkdir()
    for address, refused in (("127.0.0.1", False), ("0.0.0.0", True), ("::", True), ("::1", False)):
        code = (
            "import socket, sys\n"
            "s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)\n"
            "s.bind((sys.argv[1], 0)); s.listen(); print(s.getsockname()[1], flush=True); sys.stdin.readline()"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, address, f"--log-dir={tmp_path}/ray/logs"],
            env=os.environ | {TOKEN_VARIABLE: str(tmp_path / TOKEN)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        if not port:  # no IPv6 on this machine
            process.communicate()
            continue
        try:
            if refused:
                with pytest.raises(ClusterError, match=f"{port}, open to other machines"):
                    local.check_doors(tmp_path)
            else:
                local.check_doors(tmp_path)
        finally:
            process.communicate("\n")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("ray._private.services", "resolve_ip_for_localhost"),
        ("ray._raylet", "AuthenticationTokenLoader"),
        ("ray._raylet", "get_authentication_mode"),
    ],
)
def test_a_ray_with_other_insides_is_not_started(
    module: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr(importlib.import_module(module), name)
    before = dict(os.environ)
    started: list[str] = []

    class FakeRay:
        """Must not be asked to start."""

        @staticmethod
        def init(**options: object) -> None:
            started.append("init")

        @staticmethod
        def shutdown() -> None: ...

    from pipeline.settings.run_file import ComputeConfig

    with (
        pytest.raises(ClusterError, match=r"is not started.*constraints\.txt"),
        local.local_ray(FakeRay, ComputeConfig(), {}, 1024),
    ):
        pass
    assert not started
    assert dict(os.environ) == before


@pytest.mark.parametrize("code", [1, signal.SIGTERM])
def test_where_ray_would_end_the_process_there_is_an_error_of_ours(code: int) -> None:
    """Seen for an address where nothing answers (after two minutes), and for SIGTERM meanwhile."""

    class EndingRay:
        @staticmethod
        def init(**options: object) -> None:
            raise SystemExit(code)

    expected = KeyboardInterrupt if code == signal.SIGTERM else ClusterError
    with pytest.raises(expected):
        _join(EndingRay, "127.0.0.1:1", {})


@pytest.mark.ray
@pytest.mark.long
def test_a_real_ray_that_listens_everywhere_is_refused_and_stopped(tmp_path: Path) -> None:
    code = (
        "import contextlib, pipeline.engine.local_ray as local\n"
        "from pipeline.engine.cluster import connected\n"
        "from pipeline.settings.run_file import ComputeConfig\n"
        "local._replaced_inside_ray = contextlib.nullcontext\n"
        "with connected(ComputeConfig(object_store_mb=128)): print('OPEN')"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert "OPEN" not in done.stdout
    assert "open to other machines" in done.stderr


def http_status(port: int, method: str, path: str, body: bytes | None) -> int | None:
    """Status of an HTTP/1.1 answer; ``None`` where the server does not speak that."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def grpc_code(port: int, call: str, authorization: str | None = None) -> grpc.StatusCode:
    """How a server answers an empty request."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        method = channel.unary_unary(call, request_serializer=bytes, response_deserializer=bytes)
        try:
            method(b"", timeout=1.5, metadata=[("authorization", authorization)] if authorization else None)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK
