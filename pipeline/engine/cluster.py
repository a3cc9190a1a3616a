"""Ray: start a local one or join a running cluster, and say how many actors and readers it carries.

A core is shared: a CPU actor reserves half of each thread it uses, a reader or writer task a quarter of a core, so that
input and output overlap with the forward passes of the same core.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pipeline.engine.budget import StoreNeed
from pipeline.engine.crew import CrewSize
from pipeline.engine.executor import Capacity
from pipeline.engine.local_ray import local_ray
from pipeline.engine.running_ray import address_to_join
from pipeline.errors import ClusterError, ConfigError
from pipeline.imagery import gdal_settings
from pipeline.machine.interruption import handlers_kept, interruptible
from pipeline.machine.memory import shareable_bytes
from pipeline.machine.progress import size_text
from pipeline.planning.rates import local_actors
from pipeline.settings.run_file import DEFAULT_STORE_MB, ComputeConfig

ACTOR_CPUS_PER_THREAD = 0.5
TASK_CPUS = 0.25
STORE_SHARE = 0.75
"""Of an object store that blocks on their way may fill: Ray spills from 0.8 on, and has objects of its own there."""
COPIES = 2
"""On several nodes: what one needs of another lies in both for a while, and they do not fill evenly."""
STORE_OF_MEMORY = 0.3
"""Of the free memory that the store of a local Ray takes at most, unless the run file says how much."""

ROUNDING = 1e-6

Node = Mapping[str, float]
"""Resources of a node, as Ray names them: ``CPU``, ``GPU``, ``object_store_memory`` (bytes)."""


@dataclass(frozen=True)
class Cluster:
    """The Ray that a run uses."""

    crew: CrewSize
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


def store_room(nodes: Sequence[Node]) -> int:
    """Bytes of blocks on their way that the object stores of nodes with workers have room for, a margin left."""
    stores = [node.get("object_store_memory", 0.0) for node in nodes if node.get("CPU", 0.0) > 0]
    return int(STORE_SHARE * sum(stores) / (COPIES if len(stores) > 1 else 1))


def local_store_mb(compute: ComputeConfig, need: StoreNeed | None, shareable: int) -> int:
    """Object store of a local Ray, MiB: what the run file says, else what the plan wants and the machine can share.

    Args:
        compute: The run file's section.
        need: What the plan asks of the store; None: not a map.
        shareable: Memory that processes could share now, bytes.

    Raises:
        ConfigError: It is too small for a single block of the plan.
    """
    chosen = compute.object_store_mb or DEFAULT_STORE_MB
    if need is None:
        return chosen
    if compute.object_store_mb is None:
        wanted = need.wanted(local_actors(compute) * (1 + compute.prefetch))
        chosen = max(chosen, min(_store_mb_for(wanted), int(STORE_OF_MEMORY * shareable / 2**20)))
    if chosen < (least := _store_mb_for(need.least)):
        why = "compute.object_store_mb is" if compute.object_store_mb else "this machine can give the object store"
        raise ConfigError(
            f"{why} {chosen} MB, but one block of this plan and its neighbours take {least}: "
            "set it to so much or more, or make tiling.block_px smaller"
        )
    return chosen


def _store_mb_for(held_bytes: int) -> int:
    return math.ceil(held_bytes / STORE_SHARE / 2**20)


def actors_on(compute: ComputeConfig, node: Node) -> int:
    """Model actors that a node carries beside a reader. An actor has its GPUs on one node, its fraction on one GPU."""
    cpus, gpus, each = node.get("CPU", 0.0), node.get("GPU", 0.0), compute.gpus_per_actor
    if each <= 0:
        return int(cpus / compute.threads_per_actor + ROUNDING)
    lent = int(gpus) * int(1 / each + ROUNDING) if each < 1 else int(gpus / each)
    beside_a_reader = int((cpus - TASK_CPUS) / actor_resources(compute)["num_cpus"] + ROUNDING)
    return max(0, min(lent, beside_a_reader))


def capacity(compute: ComputeConfig, nodes: Sequence[Node]) -> Capacity:
    """What nodes carry."""
    return Capacity(sum(actors_on(compute, node) for node in nodes), store_room(nodes))


def capacity_of(ray: Any, compute: ComputeConfig) -> Capacity:
    """What the cluster that this process is connected to carries now."""
    return capacity(compute, _resources(ray))


def default_actors(compute: ComputeConfig, nodes: Sequence[Node]) -> int:
    """Number of actors that a cluster of these nodes carries; one at least, where it is of CPUs.

    Raises:
        ConfigError: Actors want GPUs and no node carries one.
    """
    carried = capacity(compute, nodes).actors
    if compute.gpus_per_actor <= 0:
        return max(1, carried)
    if not carried:
        each = actor_resources(compute)
        seen = " and ".join(f"{sum(node.get(kind, 0.0) for node in nodes):g} {kind}s" for kind in ("CPU", "GPU"))
        raise ConfigError(
            f"compute.gpus_per_actor is {compute.gpus_per_actor:g} but Ray sees {seen}, and no machine with the "
            f"{each['num_cpus'] + TASK_CPUS:g} CPUs and {each['num_gpus']:g} GPUs of an actor and a reader; "
            "set it to 0 to run on CPUs, join a cluster with GPUs (--address), or give compute.max_actors where they "
            "come on demand"
        )
    return carried


def crew_size(compute: ComputeConfig, nodes: Sequence[Node], *, local: bool) -> CrewSize:
    """How many model actors a run has.

    Args:
        compute: The run file's section.
        nodes: Of the cluster, as it is now.
        local: Nobody will bring more machines.

    Raises:
        ConfigError: Actors want GPUs, no node carries one, and none is asked for by number.
    """
    if compute.actors is None and compute.max_actors is None:
        carried = default_actors(compute, nodes)
        least = compute.min_actors or carried
        return CrewSize(least, max(least, carried), follows=not local)
    most = compute.actors or compute.max_actors or 1
    if local and compute.gpus_per_actor > 0:
        most = min(most, default_actors(compute, nodes))
    elif local and compute.max_actors is not None:
        most = min(most, max(compute.min_actors or 1, default_actors(compute, nodes)))
    return CrewSize(min(most, compute.actors or compute.min_actors or 1), most)


def chosen_gpu(number: int, visible: Sequence[str] | None, found: int) -> str:
    """What CUDA calls the GPU that ``cuda:N`` means on this machine.

    Args:
        number: N.
        visible: GPUs that the environment shows to this process; None: all.
        found: GPUs of the machine.

    Raises:
        ConfigError: There is none of this number.
    """
    names = [str(index) for index in range(found)] if visible is None else [name.strip() for name in visible]
    if number >= len(names):
        some = f"GPUs 0 to {len(names) - 1}" if len(names) > 1 else "one GPU, number 0" if names else "no GPU"
        raise ConfigError(f"model.device is 'cuda:{number}', but this process sees {some}: set it to cuda or cpu")
    return names[number]


def actor_resources(compute: ComputeConfig) -> dict[str, float]:
    """``num_cpus`` and ``num_gpus`` of one model actor."""
    cpus = ACTOR_CPUS_PER_THREAD * compute.threads_per_actor
    return {"num_cpus": cpus, "num_gpus": compute.gpus_per_actor}


@contextmanager
def connected(compute: ComputeConfig, need: StoreNeed | None = None, gpu: int | None = None) -> Iterator[Cluster]:
    """Yields a usable Ray and leaves the machine as it was.

    A Ray that this process has already initialised is used and left running. With ``compute.address`` a running
    cluster is joined and left at the end. Otherwise a local Ray is started, without a dashboard and without usage
    statistics, behind a token of its own, and stopped at the end, see :mod:`pipeline.engine.local_ray`. Meanwhile
    SIGTERM and SIGHUP raise KeyboardInterrupt, unless the process has handlers of its own or ignores them.

    Args:
        compute: The run file's section.
        need: What the plan asks of the object store; None: not a map.
        gpu: Number of the one GPU that is to be used (``cuda:N``); None: all that Ray has.

    Raises:
        ClusterError: Ray cannot be started or joined.
        ConfigError: It has no machine for an actor, not this GPU, or no room for a single block of the plan.
    """
    # Before the import: Ray reads them when it is loaded. This product sends no telemetry.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    import ray

    if ray.is_initialized():
        if gpu is not None:
            raise ConfigError(
                f"model.device is 'cuda:{gpu}', but this process has a Ray already, which chooses: set it to cuda"
            )
        yield _describe(ray, compute, need, local=False)
        return
    environment = worker_environment(compute.threads_per_actor)
    with contextlib.ExitStack() as stack:
        stack.enter_context(interruptible())
        if compute.address is not None:
            stack.callback(ray.shutdown)
            _join(ray, compute.address, environment)
        else:
            store_mb = local_store_mb(compute, need, shareable_bytes())
            if gpu is not None:
                environment |= _only(gpu)
            stack.enter_context(local_ray(ray, compute, environment, store_mb, None if gpu is None else 1))
        yield _describe(ray, compute, need, local=compute.address is None)


def _only(gpu: int) -> dict[str, str]:
    """The environment in which a local Ray finds one GPU only."""
    accelerators: Any = import_module("ray._private.accelerators")  # NVIDIA's or AMD's: each has a variable of its own
    found = accelerators.get_accelerator_manager_for_resource("GPU")
    visible, count = found.get_current_process_visible_accelerator_ids(), found.get_current_node_num_accelerators()
    return {found.get_visible_accelerator_ids_env_var(): chosen_gpu(gpu, visible, count)}


def _join(ray: Any, address: str, environment: dict[str, str]) -> None:
    found = address_to_join(address)
    try:
        with handlers_kept():
            ray.init(
                address=found,
                configure_logging=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
                runtime_env={"env_vars": environment},
            )
    except (Exception, SystemExit) as error:  # Ray ends the process over an address that it cannot read
        raise ClusterError(
            f"no Ray cluster answers at {address!r}: {error}; start one with 'ray start --head' or leave --address out"
        ) from error


def check_store(need: StoreNeed, carried: Capacity) -> None:
    """Refuses a plan of which not one block fits. Where no machine is there yet, nothing is known.

    Raises:
        ConfigError: The message says what would help.
    """
    if carried.actors and carried.store_bytes < need.least:
        raise ConfigError(
            f"the object stores of this Ray have room for {size_text(carried.store_bytes)} of blocks on their way, but "
            f"one block of this plan and its neighbours take {size_text(need.least)}: make tiling.block_px smaller, or "
            "start its nodes with a larger --object-store-memory"
        )


def _describe(ray: Any, compute: ComputeConfig, need: StoreNeed | None, *, local: bool) -> Cluster:
    nodes = _resources(ray)
    cpus, gpus = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
    crew = crew_size(compute, nodes, local=local and need is not None)
    if need is not None:
        check_store(need, capacity(compute, nodes))
    where = "local Ray" if local else f"Ray with {len(nodes)} node{'s' if len(nodes) != 1 else ''}"
    text = f"{where}: {cpus:g} CPUs, {gpus:g} GPUs; {crew.told}"
    return Cluster(crew, compute.readers or crew.most, local, text)


def _resources(ray: Any) -> list[Node]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
