"""The driver loop of a run: reads, classifies and finishes blocks on Ray with bounded memory, and survives failures.

The driver holds identifiers, never pixels. For each block: a reader task makes the composite; an actor turns it into
weighted score pieces, one per block that its tiles touch; when all pieces of a block are there, a finisher task merges
them and writes the block. Attempts are counted here, per block, and Ray's own retries are switched off: a block that
goes on failing is recorded in the journal and the run goes on.

``ray.util.ActorPool`` is not used because a dead actor can wedge it (ray issue 50313).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from pipeline.engine.cluster import TASK_CPUS, Cluster, actor_resources
from pipeline.engine.ray_errors import is_lost_object, one_line, plain_error
from pipeline.engine.tasks import BlockReport, ReadReport, ZoneContext, finish_block, read_block
from pipeline.engine.work import Key, Work, block_order, open_work
from pipeline.errors import ClusterError
from pipeline.machine.memory import ProcessMemory
from pipeline.machine.progress import Progress
from pipeline.mapstore.journal import BlockFailed, BlockFinished, JournalWriter
from pipeline.predict.classifier import BlockClassifier, ClassifierSettings, ClassifyReport
from pipeline.records.plan import MapPlan
from pipeline.settings.run_file import RunConfig
from spex_core.errors import SpexError
from spex_core.legend import Legend

logger = logging.getLogger(__name__)

CALLS_PER_ACTOR = 2
"""One running, one waiting: an actor never idles between blocks, and little is lost when it dies."""
CALLS_PER_WORKER = 256
"""Blocks that one reader or finisher process handles before another takes its place."""
ACTOR_PATIENCE_S = 1800.0
"""How long a run waits for a cluster to give it its first actor (autoscalers boot machines)."""


@dataclass(frozen=True)
class FailedBlock:
    """A block that was given up."""

    key: Key
    reason: str


@dataclass
class EngineReport:
    """What the loop did."""

    finished: int = 0
    """Blocks written by this run."""
    failed: list[FailedBlock] = field(default_factory=list)
    incomplete: int = 0
    """Blocks written although a neighbour's tiles or a scene's pixels are missing."""
    worker_peak_mb: float = 0.0
    """Sum over worker processes of their peak resident memory (for clusters, where this machine cannot see them)."""


@dataclass
class _Actor:
    handle: Any
    loading: Any | None
    """Reference of the ``load()`` call; None once it has answered."""
    calls: list[Key] = field(default_factory=list)
    """Blocks sent and not yet answered, oldest first."""
    suspect: Key | None = None
    """The block it was working on when it died."""


class Engine:
    """One run over one plan. Use :func:`run_blocks`."""

    def __init__(
        self,
        plan: MapPlan,
        config: RunConfig,
        legend: Legend,
        contexts: tuple[ZoneContext, ...],
        cluster: Cluster,
        journal: JournalWriter,
        progress: Progress,
        finished: frozenset[Key],
    ) -> None:
        import ray

        self._ray = ray
        self._plan, self._config, self._legend, self._cluster = plan, config, legend, cluster
        self._journal, self._progress = journal, progress
        self._report = EngineReport()
        self._work = open_work(plan, finished)
        self._waiting: deque[Key] = deque(key for key in block_order(plan) if key in self._work)
        self._readable: deque[Key] = deque()
        """Read, not yet sent to an actor."""
        self._open = sum(work.wanted for work in self._work.values())
        """Blocks still to be written or given up."""
        self._reading, self._in_flight, self._finishing = 0, 0, 0
        """Blocks being read; between the start of reading and the end of classification; being written."""
        self._pending: dict[Any, Callable[[Any], None]] = {}
        """Reference → what to do when it is ready."""
        self._actors: list[_Actor] = []
        self._worker_peaks: dict[tuple[str, int], float] = {}
        self._deaths = 0
        """Actors that died since the last block was classified or given up."""
        self._context_refs = [ray.put(context) for context in contexts]
        # Recycled now and then: the resident set of a process that opens thousands of GDAL datasets creeps.
        once: Any = {"max_retries": 0, "num_cpus": TASK_CPUS, "max_calls": CALLS_PER_WORKER}
        self._read: Any = ray.remote(num_returns=3, **once)(read_block)
        self._finish: Any = ray.remote(**once)(finish_block)
        self._actor_class: Any = ray.remote(BlockClassifier).options(
            max_restarts=0, max_task_retries=0, **actor_resources(config.compute)
        )
        compute = config.compute
        self._settings = ray.put(
            ClassifierSettings(
                config.model, legend, config.tiling, plan.zones, compute.threads_per_actor, compute.gpus_per_actor
            )
        )

    # -- the loop ---------------------------------------------------------------------------------------------------

    def run(self) -> EngineReport:
        """Runs until every wanted block is written or given up.

        Raises:
            ClusterError: No actor could be had, or actors go on dying while they load the model.
            SpexError: The model cannot be loaded; or every single block failed.
        """
        total = sum(len(zone.blocks) for zone in self._plan.zones)
        self._progress.start("mapping", total, "blocks", done=total - self._open)
        if not self._open:
            return self._report
        try:
            for _ in range(min(self._cluster.actors, len(self._work))):
                self._hire()
            self._loop()
        finally:
            self._dismiss()
        if not self._report.finished and self._report.failed:
            raise SpexError(f"no block could be mapped; the first failure: {self._report.failed[0].reason}")
        self._report.worker_peak_mb = sum(self._worker_peaks.values())
        return self._report

    def _loop(self) -> None:
        patience = time.monotonic() + ACTOR_PATIENCE_S
        while self._open:
            self._feed()
            if not self._pending:
                raise ClusterError("the run has stalled: blocks are left but nothing is under way; please report this")
            ready, _ = self._ray.wait(list(self._pending), num_returns=1, timeout=30.0, fetch_local=False)
            for reference in ready:
                self._pending.pop(reference)(reference)
            if all(actor.loading is not None for actor in self._actors) and time.monotonic() > patience:
                raise ClusterError(
                    f"no model actor could start within {ACTOR_PATIENCE_S / 60:.0f} minutes; each needs "
                    f"{actor_resources(self._config.compute)}: does the cluster have that?"
                )

    def _feed(self) -> None:
        self._send_to_actors()
        limit = len(self._actors) * (1 + self._config.compute.prefetch)
        # Slow writing must hold back reading too, or finished pieces would pile up in the object store.
        busy = self._in_flight + max(0, self._finishing - self._cluster.readers)
        room = min(limit - busy, self._cluster.readers - self._reading)
        while room > 0 and self._waiting:
            self._start_reading(self._work[self._waiting.popleft()])
            room -= 1

    def _watch(self, reference: Any, then: Callable[[Any], None]) -> None:
        self._pending[reference] = then

    # -- reading ----------------------------------------------------------------------------------------------------

    def _start_reading(self, work: Work) -> None:
        self._reading += 1
        self._in_flight += 1
        work.begun = time.monotonic()
        pixels, layers, report = self._read.remote(self._context_refs[work.key[0]], work.block)

        def answered(reference: Any) -> None:
            self._reading -= 1
            try:
                read: ReadReport = self._ray.get(reference)
            except Exception as error:
                self._in_flight -= 1
                self._again(work, error)
                return
            self._note_memory(read.memory)
            work.problems, work.incomplete, work.layers = read.problems, read.incomplete, layers
            if read.empty:
                self._in_flight -= 1
                self._classified(work, {})
            else:
                work.pixels = pixels
                self._readable.append(work.key)

        self._watch(report, answered)

    # -- classifying ------------------------------------------------------------------------------------------------

    def _hire(self) -> None:
        handle = self._actor_class.remote(self._settings)
        actor = _Actor(handle, handle.load.remote())
        self._actors.append(actor)

        def loaded(reference: Any) -> None:
            try:
                self._ray.get(reference)
                actor.loading = None
            except self._ray.exceptions.RayTaskError as error:
                raise plain_error(error) from None  # the model itself cannot be loaded: no other actor will do better
            except self._ray.exceptions.RayError as error:
                self._replace(actor, error)

        self._watch(actor.loading, loaded)

    def _replace(self, actor: _Actor, error: Exception) -> None:
        """A dead actor goes, a new one comes."""
        if actor not in self._actors:
            return
        self._actors.remove(actor)
        self._ray.kill(actor.handle)  # it may only be out of reach: no block is classified twice at a time
        self._deaths += 1
        logger.warning("a model actor died (%s); starting another", one_line(error))
        if self._deaths > self._config.compute.attempts * self._cluster.actors + 2:
            raise ClusterError(f"{self._deaths} model actors died one after the other; the last: {one_line(error)}")
        self._hire()

    def _send_to_actors(self) -> None:
        while self._readable:
            ready = [a for a in self._actors if a.loading is None and len(a.calls) < CALLS_PER_ACTOR]
            if not ready:
                return
            self._classify(min(ready, key=lambda a: len(a.calls)), self._work[self._readable.popleft()])

    def _classify(self, actor: _Actor, work: Work) -> None:
        actor.calls.append(work.key)
        zone = work.key[0]
        method = actor.handle.classify.options(num_returns=len(work.targets) + 1)
        *pieces, last = method.remote(zone, work.block, work.targets, work.pixels)

        def answered(reference: Any) -> None:
            self._in_flight -= 1
            running = actor.calls[0]
            actor.calls.remove(work.key)
            try:
                report: ClassifyReport = self._ray.get(reference)
            except self._ray.exceptions.RayActorError as error:
                # The block it was working on is counted, the one waiting behind it is not.
                actor.suspect = actor.suspect or running
                self._again(work, error, counts=work.key == actor.suspect)
                self._replace(actor, error)
            except Exception as error:
                self._again(work, error)
            else:
                self._note_memory(report.memory)
                for note in report.notes:
                    logger.warning("%s: %s", work.title, note)
                work.problems += report.notes
                work.pixels = None
                self._classified(work, dict(zip(work.targets, pieces, strict=True)))

        self._watch(last, answered)

    def _classified(self, work: Work, pieces: dict[int, Any]) -> None:
        work.state = "classified"
        self._deaths = 0
        zone = work.key[0]
        # Pieces of blocks that are written already (an earlier run, or before an object was lost) are let go at once.
        work.pieces = {
            target: piece
            for target, piece in pieces.items()
            if (zone, target) in self._work and self._work[zone, target].wanted and not self._work[zone, target].done
        }
        self._finish_where_possible(zone, {work.key[1], *work.targets})

    # -- finishing --------------------------------------------------------------------------------------------------

    def _finish_where_possible(self, zone: int, indices: Iterable[int]) -> None:
        for index in sorted(indices):
            work = self._work.get((zone, index))
            if work is None or not work.wanted or work.done or work.finishing or work.state != "classified":
                continue
            needs = [self._work[zone, need] for need in work.block.needs]
            if all(need.state in ("classified", "failed") for need in needs):
                self._start_finishing(work, needs)

    def _start_finishing(self, work: Work, needs: list[Work]) -> None:
        work.finishing = True
        self._finishing += 1
        index = work.key[1]
        lost = tuple(need.key[1] for need in needs if need.state == "failed")
        problems = (*work.problems, *(f"the tiles of neighbouring block {need} are missing" for need in lost))
        incomplete = bool(lost) or any(need.incomplete for need in needs)
        pieces = [need.pieces[index] for need in needs if index in need.pieces]
        answer = self._finish.remote(self._context_refs[work.key[0]], work.block, work.layers, *pieces)

        def answered(reference: Any) -> None:
            work.finishing = False
            self._finishing -= 1
            try:
                report: BlockReport = self._ray.get(reference)
            except Exception as error:
                self._after_failed_finish(work, needs, error)
                return
            self._note_memory(report.memory)
            self._close(work)
            for need in needs:  # the object store frees what nobody refers to
                need.pieces.pop(index, None)
            self._report.finished += 1
            self._report.incomplete += incomplete
            self._journal.append(
                BlockFinished(
                    self._epsg(work),
                    index,
                    round(time.monotonic() - work.begun, 3),
                    round(report.valid_share, 6),
                    report.sha256,
                    problems,
                    incomplete,
                )
            )
            self._progress.advance()

        self._watch(answer, answered)

    def _after_failed_finish(self, work: Work, needs: list[Work], error: Exception) -> None:
        if is_lost_object(error):
            # The machine that held a piece is gone. Which one is not told: all of them are computed again.
            for need in needs:
                if need is not work and need.state == "classified":
                    need.state, need.pieces = "open", {}
                    self._waiting.appendleft(need.key)
            self._again(work, error)
            return
        work.attempts += 1
        if work.attempts < self._config.compute.attempts:
            logger.warning("writing %s failed (%s); trying again", work.title, one_line(error))
            self._start_finishing(work, needs)
        else:
            self._give_up(work, error)

    # -- failures ---------------------------------------------------------------------------------------------------

    def _again(self, work: Work, error: Exception, *, counts: bool = True) -> None:
        """Puts a block back to its start, or gives it up."""
        work.attempts += counts
        work.pixels, work.layers, work.pieces = None, None, {}
        if work.attempts >= self._config.compute.attempts:
            work.state = "failed"
            self._give_up(work, error)
            return
        if counts:
            logger.warning("%s failed (%s); trying again", work.title, one_line(error))
        work.state = "open"
        self._waiting.appendleft(work.key)

    def _give_up(self, work: Work, error: Exception) -> None:
        """Records a block as missing. Its pieces, if it has any, still serve its neighbours."""
        self._deaths = 0
        reason = one_line(error)
        logger.error("%s is given up after %d attempts: %s", work.title, work.attempts, reason)
        if work.wanted and not work.done:
            self._close(work)
            self._report.failed.append(FailedBlock(work.key, reason))
            self._journal.append(BlockFailed(self._epsg(work), work.key[1], work.attempts, reason))
            self._progress.advance()
        self._finish_where_possible(work.key[0], work.targets)

    def _epsg(self, work: Work) -> int:
        return self._plan.zones[work.key[0]].grid.epsg

    def _close(self, work: Work) -> None:
        work.done = True
        work.layers = None
        self._open -= 1

    def _dismiss(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor.handle)
        for reference in self._pending:
            try:
                self._ray.cancel(reference, force=True)
            except Exception:  # finished meanwhile, or an actor's: either is fine while leaving
                continue
        self._pending.clear()

    def _note_memory(self, memory: ProcessMemory) -> None:
        process = (memory.host, memory.pid)
        self._worker_peaks[process] = max(self._worker_peaks.get(process, 0.0), memory.peak_mb)


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
    """Computes every block of ``plan`` that is not in ``finished``; see :class:`Engine`."""
    return Engine(plan, config, legend, contexts, cluster, journal, progress, finished).run()
