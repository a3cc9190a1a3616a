"""Ray behind the driver's interface: calls become tasks and actor calls without any retry of Ray's own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pipeline.engine.cluster import TASK_CPUS, Cluster, actor_resources
from pipeline.engine.driver import Engine, EngineReport
from pipeline.engine.executor import (
    ActorHandle,
    CallFailedError,
    ClassifyAnswer,
    Executor,
    ReadAnswer,
    Reference,
)
from pipeline.engine.ray_errors import lost_object, one_line, plain_error, trouble_of
from pipeline.engine.tasks import ZoneContext, finish_block, read_block
from pipeline.engine.work import Key
from pipeline.errors import ClusterError
from pipeline.machine.progress import Progress
from pipeline.mapstore.journal import JournalWriter
from pipeline.predict.classifier import BlockClassifier, ClassifierSettings
from pipeline.records.plan import Block, MapPlan
from pipeline.settings.run_file import RunConfig
from spex_core.legend import Legend

CALLS_PER_WORKER = 256
"""Blocks that one reader or finisher process handles before another takes its place."""
INLINE_BYTES = 110_000
"""Smaller objects (100 KiB of data) stay in the driver's process (Ray's ``max_direct_call_object_size``)."""
ANSWER_S = 60.0
"""How long a small answer that Ray calls ready may take to arrive."""


class RayExecutor(Executor):
    """Calls on the Ray that this process is connected to.

    ``ray.util.ActorPool`` is not used because a dead actor can wedge it (ray issue 50313).
    """

    def __init__(self, plan: MapPlan, config: RunConfig, legend: Legend, contexts: Sequence[ZoneContext]) -> None:
        import ray

        self._ray: Any = ray
        self._contexts = [ray.put(context) for context in contexts]
        # Recycled now and then: the resident set of a process that opens thousands of GDAL datasets creeps.
        once: Any = {"max_retries": 0, "num_cpus": TASK_CPUS, "max_calls": CALLS_PER_WORKER}
        self.read_task: Any = ray.remote(num_returns=3, **once)(read_block)
        self.finish_task: Any = ray.remote(**once)(finish_block)
        self.actor_class: Any = ray.remote(BlockClassifier).options(
            max_restarts=0, max_task_retries=0, **actor_resources(config.compute)
        )
        compute = config.compute
        self._settings = ray.put(
            ClassifierSettings(
                config.model,
                legend,
                config.tiling,
                plan.zones,
                compute.threads_per_actor,
                compute.gpus_per_actor,
                plan.software,
            )
        )

    def clock(self) -> float:
        return time.monotonic()

    def hire(self) -> tuple[ActorHandle, Reference]:
        handle = self.actor_class.remote(self._settings)
        return handle, handle.load.remote()

    def read(self, zone: int, block: Block) -> ReadAnswer:
        return ReadAnswer(*self.read_task.remote(self._contexts[zone], block))

    def classify(
        self, actor: ActorHandle, zone: int, block: Block, targets: tuple[int, ...], pixels: Reference
    ) -> ClassifyAnswer:
        method = actor.classify.options(num_returns=len(targets) + 1)
        *pieces, report = method.remote(zone, block, targets, pixels)
        return ClassifyAnswer(tuple(pieces), report)

    def finish(self, zone: int, block: Block, layers: Reference, pieces: Sequence[Reference]) -> Reference:
        reference: Reference = self.finish_task.remote(self._contexts[zone], block, layers, *pieces)
        return reference

    def wait(self, references: Sequence[Reference], timeout_s: float) -> list[Reference]:
        try:
            ready, _ = self._ray.wait(list(references), num_returns=1, timeout=timeout_s, fetch_local=False)
        except self._ray.exceptions.RayError as error:
            raise ClusterError(f"Ray does not answer any more: {one_line(error)}; finished blocks are kept") from error
        found: list[Reference] = ready
        return found

    def get(self, reference: Reference) -> Any:
        try:
            return self._ray.get(reference, timeout=ANSWER_S)
        except Exception as error:
            raise CallFailedError(trouble_of(error), plain_error(error), one_line(error), lost_object(error)) from None

    def gone(self, given: Sequence[Reference], failure: CallFailedError) -> frozenset[Reference]:
        references: list[Any] = list(given)
        named = {reference for reference in references if reference.hex() == failure.lost_object}
        try:
            places = self._ray.experimental.get_object_locations(references, timeout_ms=int(1000 * ANSWER_S))
        except self._ray.exceptions.RayError:
            return frozenset(named)
        alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        # Small objects live in this process, have no location and cannot be lost.
        homeless = {
            reference
            for reference, place in places.items()
            if (place["object_size"] or 0) > INLINE_BYTES
            and not place["did_spill"]
            and not alive.intersection(place["node_ids"])
        }
        return frozenset(named | homeless)

    def kill(self, actor: ActorHandle) -> None:
        self._ray.kill(actor)

    def cancel(self, reference: Reference) -> None:
        try:
            self._ray.cancel(reference, force=True)
        except (ValueError, TypeError, self._ray.exceptions.RayError):
            return  # an actor's call, which ends with its actor; or over meanwhile


def run_blocks(
    plan: MapPlan,
    config: RunConfig,
    legend: Legend,
    contexts: tuple[ZoneContext, ...],
    cluster: Cluster,
    journal: JournalWriter,
    progress: Progress,
    finished: frozenset[Key] = frozenset(),
) -> EngineReport:
    """Computes every block of ``plan`` that is not in ``finished`` on the Ray that is connected."""
    executor = RayExecutor(plan, config, legend, contexts)
    return Engine(plan, config, legend, cluster.actors, cluster.readers, executor, journal, progress, finished).run()
