"""Ray behind the driver's interface: calls of actors, without any retry of Ray's own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pipeline.engine.cluster import TASK_CPUS, Cluster, actor_resources, capacity_of
from pipeline.engine.driver import Engine, EngineReport
from pipeline.engine.executor import (
    ActorHandle,
    CallFailedError,
    Capacity,
    ClassifyAnswer,
    Executor,
    ReadAnswer,
    Reference,
    Trouble,
)
from pipeline.engine.io_workers import IoPool, IoWorker
from pipeline.engine.model_seats import Seats, seats_per_process
from pipeline.engine.ray_errors import lost_object, one_line, plain_error, trouble_of
from pipeline.engine.tasks import ZoneContext
from pipeline.engine.work import Key
from pipeline.errors import ClusterError
from pipeline.machine.progress import Progress
from pipeline.mapstore.journal import JournalWriter
from pipeline.predict.classifier import BlockClassifier, ClassifierSettings
from pipeline.records.plan import Block, MapPlan
from pipeline.settings.run_file import RunConfig
from spex_core.legend import Legend

INLINE_BYTES = 110_000
"""Smaller objects (100 KiB of data) stay in the driver's process (Ray's ``max_direct_call_object_size``)."""
ANSWER_S = 60.0
"""How long a small answer that Ray calls ready may take to arrive."""


class RayExecutor(Executor):
    """Calls on the Ray that this process is connected to.

    ``ray.util.ActorPool`` is not used because a dead actor can wedge it (ray issue 50313).
    """

    def __init__(
        self,
        plan: MapPlan,
        config: RunConfig,
        legend: Legend,
        contexts: Sequence[ZoneContext],
        readers: int,
        *,
        seats: int = 1,
        actor_class: type[BlockClassifier] = BlockClassifier,
        io_class: type[IoWorker] = IoWorker,
    ) -> None:
        import ray

        self._ray: Any = ray
        self._compute = config.compute
        once: Any = {"max_restarts": 0, "max_task_retries": 0}
        io_actor = ray.remote(io_class).options(num_cpus=TASK_CPUS, scheduling_strategy="SPREAD", **once)
        self._io = IoPool(ray, io_actor, ray.put(tuple(contexts)), readers)
        compute = config.compute
        settings = ray.put(
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
        self._seats = Seats(ray, ray.remote(actor_class), settings, {**once, **actor_resources(compute)}, seats)

    def clock(self) -> float:
        return time.monotonic()

    def capacity(self) -> Capacity:
        return capacity_of(self._ray, self._compute)

    def allow_readers(self, count: int) -> None:
        self._io.size = count

    def hire(self) -> tuple[ActorHandle, Reference]:
        seat = self._seats.take()
        return seat, self._seats.handle(seat).load.remote()

    def read(self, zone: int, block: Block) -> ReadAnswer:
        answer = ReadAnswer(*self._io.next("read").read.options(num_returns=3).remote(zone, block))
        self._io.sent("read", answer.report)
        return answer

    def classify(
        self, actor: ActorHandle, zone: int, block: Block, targets: tuple[int, ...], pixels: Reference
    ) -> ClassifyAnswer:
        method = self._seats.handle(actor).classify.options(num_returns=len(targets) + 1)
        *pieces, report = method.remote(zone, block, targets, pixels)
        return ClassifyAnswer(tuple(pieces), report)

    def finish(self, zone: int, block: Block, layers: Reference, pieces: Sequence[Reference]) -> Reference:
        reference: Reference = self._io.next("finish").finish.remote(zone, block, layers, *pieces)
        self._io.sent("finish", reference)
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
            answer = self._ray.get(reference, timeout=ANSWER_S)
        except Exception as error:
            trouble = trouble_of(error)
            if trouble is not Trouble.WORKER:
                self._io.answered(reference)
            elif not self._io.died(reference):
                trouble = Trouble.LOST  # another call has taken the process along
            raise CallFailedError(trouble, plain_error(error), one_line(error), lost_object(error)) from None
        self._io.answered(reference)
        return answer

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
        self._seats.end(actor)

    def cancel(self, reference: Reference) -> None:
        self._io.end(reference)  # a model actor's call ends with its actor, which is the driver's to kill


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
    seats = seats_per_process(config, cluster.crew, local=cluster.local)
    executor = RayExecutor(plan, config, legend, contexts, cluster.readers, seats=seats)
    return Engine(plan, config, legend, cluster.crew, cluster.readers, executor, journal, progress, finished).run()
