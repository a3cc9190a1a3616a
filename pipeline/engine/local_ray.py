"""A Ray of this run's own: a private token, loopback only, nothing that outlives its driver.

What Ray has no setting for is done by replacing names inside it while it starts. Should another version know them no
more, nothing is opened in silence: the token is looked for before the start, the listening sockets after it. See
docs/decisions/0025.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import ipaddress
import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from pipeline.engine import session_guard
from pipeline.engine.session_guard import TOKEN, TOKEN_VARIABLE, end_session, session_processes
from pipeline.errors import ClusterError
from pipeline.machine.interruption import handlers_kept
from pipeline.machine.lock import take
from pipeline.machine.preflight import require_local_ray, session_parent
from pipeline.machine.processors import cpu_count
from pipeline.settings.run_file import ComputeConfig

logger = logging.getLogger(__name__)

TEMP_PREFIX = "spex-ray-"
LOCK = "driver.lock"
RAY_FOLDER = "ray"
"""Ray opens its own folder to all users of the machine; the one around it stays closed."""
LOOPBACK = "127.0.0.1"
RELEASE_S = 30.0
ABANDONED_S = 3600.0
"""A folder without a lock is nobody's after so many seconds."""

SETTINGS = {
    "RAY_AUTH_MODE": "token",
    # Figures for Prometheus are served to whoever asks, without a token.
    "RAY_enable_metrics_collection": "0",
    "AUTOSCALER_METRIC_PORT": "-1",
    "DASHBOARD_METRIC_PORT": "-1",
}
"""Environment of a local Ray, beside the path of its token."""
NOT_FOR_IT = ("RAY_AUTH_TOKEN", "RAY_ENABLE_K8S_TOKEN_AUTH", "RAY_REDIS_ADDRESS")
"""What a user has set for a cluster: another token, or state that lives elsewhere."""


@contextmanager
def local_ray(
    ray: Any, compute: ComputeConfig, environment: dict[str, str], store_mb: int, gpus: int | None = None
) -> Iterator[None]:
    """Starts a Ray and ends it, with all its processes and files; the environment is as before afterwards.

    Args:
        ray: The module.
        compute: How many cores it shall have.
        environment: Environment variables of its workers.
        store_mb: Its object store, MiB.
        gpus: How many it shall lend; None: all that it finds.

    Raises:
        ClusterError: It cannot be started, or not without a door to other machines.
        InstallationError: This machine lacks what it needs: a folder for its files, a loopback network.
    """
    require_local_ray()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(session_folder())
        stack.enter_context(_guarded(folder))
        stack.enter_context(_token_demanded(folder))
        stack.callback(_stop, ray)
        listening = _listening([psutil.Process()])
        _start(ray, compute, environment, store_mb, gpus, folder / RAY_FOLDER)
        check_doors(folder, listening)
        yield


@contextmanager
def session_folder() -> Iterator[Path]:
    """A folder for the token, sockets, logs and spilled objects of a local Ray, removed at the end.

    What killed drivers of this user have left is ended and removed as well, and told: each folder holds a lock that the
    kernel keeps for as long as its driver lives.
    """
    parent = session_parent()
    for old in parent.glob(f"{TEMP_PREFIX}*"):
        _clear(old)
    folder = Path(tempfile.mkdtemp(prefix=TEMP_PREFIX, dir=parent))
    unlocked = folder / f"{LOCK}.new"
    with take(unlocked):
        unlocked.rename(folder / LOCK)  # under its name it is never seen without its lock
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _clear(old: Path) -> None:
    """Ends a session whose driver is dead; one of another user, or in use, is left alone."""
    try:
        with take(old / LOCK, create=False):
            ended = end_session(old)
        logger.warning("left by a killed run: processes of its Ray (%d ended) and %s (removed)", ended, old)
    except FileNotFoundError:
        # Its driver was killed before it had the lock, or Ray made a folder again that was removed. Nothing says whose
        # it is now: it goes if it is old and nobody is there.
        with contextlib.suppress(OSError):
            found = old.lstat()
            forgotten = found.st_uid == os.getuid() and time.time() - found.st_mtime > ABANDONED_S
            if forgotten and not session_processes(old):
                shutil.rmtree(old, ignore_errors=True)
    except OSError:
        pass


@contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    """Runs the guard beside this process; at the end it clears the session away, whoever ends first."""
    command = [sys.executable, "-P", str(Path(session_guard.__file__)), str(folder), str(os.getpid())]
    try:
        guard = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # Ctrl-C in a terminal is not meant for it
        )
    except OSError as error:
        raise ClusterError(f"a local Ray cannot be started: its guard does not start ({error})") from error
    try:
        yield
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        try:
            guard.wait(RELEASE_S)
        except subprocess.TimeoutExpired:
            guard.kill()
            guard.wait()
        if guard.returncode:
            end_session(folder, frozenset((os.getpid(),)))


@contextmanager
def _token_demanded(folder: Path) -> Iterator[None]:
    """A new token that this process, and whatever Ray it starts, uses and asks for; put away at the end."""
    path = folder / TOKEN
    path.parent.mkdir(mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
    try:
        with _environment({**SETTINGS, TOKEN_VARIABLE: str(path)}, without=NOT_FOR_IT):
            _read_authentication_again(demanded=True)
            yield
    finally:
        _read_authentication_again(demanded=False)


@contextmanager
def _environment(settings: Mapping[str, str], without: Sequence[str] = ()) -> Iterator[None]:
    """Environment variables of this process and of those that it starts; as before afterwards."""
    before = {name: os.environ.get(name) for name in (*settings, *without)}
    for name in without:
        os.environ.pop(name, None)
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _read_authentication_again(*, demanded: bool) -> None:
    """Ray reads mode and token once per process; after a change of the environment it is told to do so again."""
    try:
        raylet: Any = importlib.import_module("ray._raylet")
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()
        asked_for = raylet.get_authentication_mode() == raylet.AuthenticationMode.TOKEN
        known = raylet.AuthenticationTokenLoader.instance().has_token()
    except (ImportError, AttributeError) as error:
        raise _unknown_version(f"it has no token authentication that is known here ({error})") from error
    if demanded and not (asked_for and known):
        raise _unknown_version("it does not ask for a token although it was told to")


def _unknown_version(what: str) -> ClusterError:
    version = getattr(importlib.import_module("ray"), "__version__", "?")
    return ClusterError(
        f"a local Ray {version} is not started: {what}; install the version of constraints.txt, "
        "or start a Ray yourself and join it (--address)"
    )


def _start(
    ray: Any, compute: ComputeConfig, environment: dict[str, str], store_mb: int, gpus: int | None, temp_dir: Path
) -> None:
    cores = cpu_count()  # those that this process may use, not those of the machine
    wanted = (compute.actors or compute.min_actors or 0) * compute.threads_per_actor
    # A local Ray may be told to carry more actors than cores; it must then believe that it has the cores.
    cpus = max(cores, wanted, 1)
    # Workers start in Ray's own folder: the package must be found there too when it is run from a clone.
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    try:
        # Handed down from process to process; with a runtime environment Ray would start every worker twice.
        with handlers_kept(), _replaced_inside_ray(), _environment({**environment, "PYTHONPATH": path}):
            ray.init(
                address="local",
                _node_ip_address=LOOPBACK,
                num_cpus=cpus,
                num_gpus=gpus,
                include_dashboard=False,
                object_store_memory=store_mb * 2**20,
                configure_logging=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
                _temp_dir=str(temp_dir),
            )
    except ClusterError:
        raise
    except (
        Exception,
        SystemExit,
    ) as error:  # Ray raises ValueError, OSError, ConnectionError, RuntimeError, TimeoutError...
        raise ClusterError(f"a local Ray cannot be started: {error}") from error


@contextmanager
def _replaced_inside_ray() -> Iterator[None]:
    """Names of Ray that have no setting, replaced while it starts."""
    replacements: tuple[tuple[str, str, Any, bool], ...] = (
        # Ray turns a loopback address into the machine's outer one, and every server listens on that or on all.
        ("ray._private.services", "resolve_ip_for_localhost", lambda host: host, True),
        # Its agent then starts without the servers for jobs and figures. Otherwise they ask for the token.
        ("ray._private.utils", "get_dashboard_dependency_error", lambda: ImportError("not wanted"), False),
        # Ray's handler of fatal signals, in this process, takes SIGTERM for one and prints its native stack.
        ("ray._private.ray_constants", "RAY_DISABLE_FAILURE_SIGNAL_HANDLER", True, False),
        # An autoscaler without machines to ask for, a reader of logs that nobody is sent, a page that nobody opens:
        # each is a Python process that takes a second of CPU to start.
        ("ray._private.node", "Node.start_monitor", lambda node: None, False),
        ("ray._private.node", "Node.start_log_monitor", lambda node: None, False),
        ("ray._private.node", "Node.start_api_server", _without_page, False),
    )
    with contextlib.ExitStack() as stack:
        for module_name, name, value, needed in replacements:
            try:
                *owners, attribute = name.split(".")
                owner: Any = functools.reduce(getattr, owners, importlib.import_module(module_name))
                before = getattr(owner, attribute)
            except (ImportError, AttributeError) as error:
                if needed:
                    raise _unknown_version(f"its ports cannot be kept on loopback ({error})") from error
                logger.debug("Ray has no %s.%s", module_name, name)
                continue
            setattr(owner, attribute, value)
            stack.callback(setattr, owner, attribute, before)
        yield


def _without_page(node: Any, **_: Any) -> None:
    node._webui_url = ""


def check_doors(folder: Path, known: frozenset[tuple[str, int]] = frozenset()) -> None:
    """Looks at the listening sockets of a local Ray.

    Args:
        folder: The session's.
        known: Address and port of what this process listened on before.

    Raises:
        ClusterError: One can be reached from other machines; the message names it.
    """
    me = psutil.Process()
    processes = [me, *session_processes(folder)]
    for process in processes:
        for address, port in _listening([process]) - (known if process is me else frozenset()):
            if not is_loopback(address):
                raise _unknown_version(f"its {process.name()} listens on {address}:{port}, open to other machines")


def _listening(processes: list[psutil.Process]) -> frozenset[tuple[str, int]]:
    """Address and port of every TCP socket that listens."""
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    found.add((str(connection.laddr.ip), int(connection.laddr.port)))
    return frozenset(found)


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an IPv4 or IPv6 address."""
    parsed = ipaddress.ip_address(address)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


def _stop(ray: Any) -> None:
    # The processes do not listen to SIGTERM, see handlers_kept: without this Ray would wait a second for each.
    with contextlib.suppress(ImportError, AttributeError):
        node = importlib.import_module("ray._private.worker")._global_node
        kill = node.kill_all_processes
        node.kill_all_processes = lambda **options: kill(**(options | {"allow_graceful": False}))
    ray.shutdown()
