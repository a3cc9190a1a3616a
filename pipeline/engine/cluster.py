"""Ray: start a local one or join a running cluster, and say how many actors and readers it carries.

A core is shared: a CPU actor reserves half of each thread it uses, a reader or writer task a quarter of a core, so that
input and output overlap with the forward passes of the same core.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ClusterError
from pipeline.imagery import gdal_settings
from pipeline.machine import lock
from pipeline.settings.run_file import ComputeConfig

ACTOR_CPUS_PER_THREAD = 0.5
TASK_CPUS = 0.25
TEMP_PREFIX = "spex-ray-"
LOCK = "driver.lock"


@dataclass(frozen=True)
class Cluster:
    """The Ray that a run uses."""

    actors: int
    readers: int
    local: bool
    """Started by this run (and stopped with it)."""
    description: str
    """One line for people."""


def worker_environment(threads: int) -> dict[str, str]:
    """Environment variables of every worker; those of GDAL and the allocator yield to what the user has set."""
    environment = {name: os.environ.get(name, value) for name, value in gdal_settings.worker_environment().items()}
    # The user's shell does not decide these: the thread count belongs to the plan (float sums depend on it).
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment[name] = str(threads)
    # A map is made from what the plan names; nothing is fetched from a model hub behind its back.
    return {**environment, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


def default_actors(compute: ComputeConfig, cpus: float, gpus: float) -> int:
    """Number of actors that a cluster of ``cpus`` cores and ``gpus`` GPUs carries.

    Raises:
        ClusterError: Actors want GPUs and the cluster has too few for one.
    """
    if compute.gpus_per_actor > 0:
        if gpus < compute.gpus_per_actor:
            raise ClusterError(
                f"compute.gpus_per_actor is {compute.gpus_per_actor:g} but Ray sees {gpus:g} GPUs; "
                "set it to 0 to run on CPUs, or join a cluster with GPUs (--address)"
            )
        return max(1, int(gpus / compute.gpus_per_actor + 1e-6))
    return max(1, int(cpus / compute.threads_per_actor + 1e-6))


def actor_resources(compute: ComputeConfig) -> dict[str, float]:
    """``num_cpus`` and ``num_gpus`` of one model actor."""
    cpus = ACTOR_CPUS_PER_THREAD * compute.threads_per_actor
    return {"num_cpus": cpus, "num_gpus": compute.gpus_per_actor}


@contextmanager
def connected(compute: ComputeConfig) -> Iterator[Cluster]:
    """Yields a usable Ray and leaves the machine as it was.

    A Ray that this process has already initialised is used and left running. With ``compute.address`` a running
    cluster is joined and left at the end. Otherwise a local Ray is started, without a dashboard and without usage
    statistics, in a temporary folder of its own, and stopped at the end.

    Raises:
        ClusterError: Ray cannot be started or joined, or has too few GPUs.
    """
    # Before the import: Ray reads them when it is loaded. This product sends no telemetry.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    import ray

    if ray.is_initialized():
        yield _describe(ray, compute, local=False)
        return
    environment = worker_environment(compute.threads_per_actor)
    with contextlib.ExitStack() as stack:
        stack.callback(ray.shutdown)
        if compute.address is not None:
            _join(ray, compute.address, environment)
        else:
            folder = stack.enter_context(session_folder())
            stack.callback(ray.shutdown)  # before the folder goes
            _start(ray, compute, environment, str(folder))
        yield _describe(ray, compute, local=compute.address is None)


@contextmanager
def session_folder() -> Iterator[Path]:
    """A folder for the sockets, logs and spilled objects of a local Ray, removed at the end.

    Folders of drivers that were killed are removed as well: each holds a lock for as long as its driver lives.
    """
    # A socket path may be 107 bytes long at most: the usual TMPDIR of a job scheduler would not fit.
    parent = Path("/tmp") if os.access("/tmp", os.W_OK) else Path(tempfile.gettempdir())
    for old in parent.glob(f"{TEMP_PREFIX}*"):
        with contextlib.suppress(OSError), _locked(old / LOCK):  # a folder of another user, or in use, is left alone
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=TEMP_PREFIX, dir=parent))
    (folder / LOCK).touch()
    with _locked(folder / LOCK):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock that the kernel drops when the process dies; never waits. OSError where it cannot be had."""
    with lock.take(path, create=False):
        yield


def _start(ray: Any, compute: ComputeConfig, environment: dict[str, str], temp_dir: str) -> None:
    cores = os.cpu_count() or 1
    wanted = (compute.actors or 0) * compute.threads_per_actor
    # A local Ray may be told to carry more actors than cores; it must then believe that it has the cores.
    cpus = max(cores, wanted, 1)
    # Workers start in Ray's own folder: the package must be found there too when it is run from a clone.
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    if not os.access(Path.home(), os.W_OK) and "RAY_AUTH_MODE" not in os.environ:
        # Ray keeps the token of a local cluster in the home folder and fails without one; loopback must do then.
        os.environ["RAY_AUTH_MODE"] = "disabled"
    try:
        ray.init(
            address="local",
            _node_ip_address="127.0.0.1",  # not to be reached from other machines
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=compute.object_store_mb * 2**20,
            configure_logging=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            _temp_dir=temp_dir,
            runtime_env={"env_vars": {**environment, "PYTHONPATH": path}},
        )
    except Exception as error:  # Ray raises ValueError, OSError, ConnectionError, RuntimeError, TimeoutError...
        raise ClusterError(f"a local Ray cannot be started: {error}") from error


def _join(ray: Any, address: str, environment: dict[str, str]) -> None:
    try:
        ray.init(
            address=address,
            configure_logging=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            runtime_env={"env_vars": environment},
        )
    except Exception as error:
        raise ClusterError(
            f"no Ray cluster answers at {address!r}: {error}; start one with 'ray start --head' or leave --address out"
        ) from error


def _describe(ray: Any, compute: ComputeConfig, *, local: bool) -> Cluster:
    resources = ray.cluster_resources()
    cpus, gpus = float(resources.get("CPU", 0)), float(resources.get("GPU", 0))
    actors = compute.actors or default_actors(compute, cpus, gpus)
    nodes = sum(1 for node in ray.nodes() if node.get("Alive"))
    where = "local Ray" if local else f"Ray with {nodes} node{'s' if nodes != 1 else ''}"
    text = f"{where}: {cpus:g} CPUs, {gpus:g} GPUs; {actors} model actor{'s' if actors != 1 else ''}"
    return Cluster(actors, compute.readers or actors, local, text)
