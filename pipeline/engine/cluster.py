"""Ray: start a local one or join a running cluster, and say how many actors and readers it carries.

A core is shared: a CPU actor reserves half of each thread it uses, a reader or writer task a quarter of a core, so that
input and output overlap with the forward passes of the same core.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipeline.engine.local_ray import local_ray
from pipeline.errors import ClusterError
from pipeline.imagery import gdal_settings
from pipeline.machine.interruption import handlers_kept, interruptible
from pipeline.settings.run_file import ComputeConfig

ACTOR_CPUS_PER_THREAD = 0.5
TASK_CPUS = 0.25


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
    statistics, behind a token of its own, and stopped at the end, see :mod:`pipeline.engine.local_ray`. Meanwhile
    SIGTERM and SIGHUP raise KeyboardInterrupt, unless the process has handlers of its own or ignores them.

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
        stack.enter_context(interruptible())
        if compute.address is not None:
            stack.callback(ray.shutdown)
            _join(ray, compute.address, environment)
        else:
            stack.enter_context(local_ray(ray, compute, environment))
        yield _describe(ray, compute, local=compute.address is None)


def _join(ray: Any, address: str, environment: dict[str, str]) -> None:
    try:
        with handlers_kept():
            ray.init(
                address=address,
                configure_logging=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
                runtime_env={"env_vars": environment},
            )
    except (Exception, SystemExit) as error:  # Ray ends the process over an address that it cannot read
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
