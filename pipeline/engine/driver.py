"""The driver loop of a run: has blocks read, classified and finished with bounded memory, and survives failures.

The driver holds identifiers, never pixels. For each block: a reader makes the composite; an actor turns it into
weighted score pieces, one per block that its tiles touch; when all pieces of a block are there, a finisher merges them
and writes the block. What is to be done next is read from what each block lacks (:mod:`pipeline.engine.work`); what a
failure means is decided here, once per kind (:class:`~pipeline.engine.executor.Trouble`). The machines themselves stand
behind :class:`~pipeline.engine.executor.Executor`, so that every schedule of failures can be played in a test.

Attempts are counted here, per block, and nothing else repeats a call: a block that goes on failing is recorded in the
journal and the run goes on. Every call has a deadline, and so has the run as a whole for making any progress.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.engine.budget import block_sizes, store_need
from pipeline.engine.crew import Crew, CrewSize
from pipeline.engine.executor import CallFailedError, Executor, Reference, Trouble
from pipeline.engine.pace import AtWork, Pace
from pipeline.engine.pending import Call, Pending
from pipeline.engine.store_room import StoreRoom
from pipeline.engine.work import UNWRITTEN, Ending, Key, ReadingOrder, Stage, Work, Worklist, block_order
from pipeline.engine.worker_memory import WorkerMemory
from pipeline.errors import ClusterError
from pipeline.machine.progress import Progress, duration_text
from pipeline.mapstore.journal import BlockFailed, BlockFinished, JournalWriter
from pipeline.records.plan import MapPlan
from pipeline.settings.run_file import ComputeConfig, RunConfig
from spex_core.legend import Legend

logger = logging.getLogger(__name__)

STALL_DEADLINES = 2.0
"""A run without any answer for so many times ``compute.answer_within_s`` is ended: the cluster is gone."""
MAX_LOSSES = 20
"""How often a block's data may go away with machines before it is given up."""
LOOK_AGAIN_S = 30.0
"""Longest wait for an answer before deadlines are looked at."""


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
    """Highest sum of resident memory over the worker processes that lived at a time (this machine cannot see those of
    a cluster)."""
    held_peak_bytes: int = 0
    """The most that blocks on their way held at a time."""
    pixels: int = 0
    """Of the blocks written."""
    seconds: float = 0.0
    """Since the first tile was given to a model."""


class Engine:
    """One run over one plan. See :func:`pipeline.engine.ray_executor.run_blocks`."""

    def __init__(
        self,
        plan: MapPlan,
        config: RunConfig,
        legend: Legend,
        actors: CrewSize,
        readers: int,
        executor: Executor,
        journal: JournalWriter,
        progress: Progress,
        finished: frozenset[Key],
    ) -> None:
        self._plan, self._executor, self._journal, self._progress = plan, executor, journal, progress
        self._compute: ComputeConfig = config.compute
        self._readers = readers
        """The most blocks that are read at a time."""
        self._reading = 1
        """How many are: more whenever an actor has had to wait for one."""
        self.report = EngineReport()
        self.blocks = Worklist(plan, finished)
        self._by_order = block_order(plan)
        self._to_read = ReadingOrder(work.order for work in self.blocks.work.values())
        """Places in the order of blocks that lacked reading when they were put here."""
        self._pending = Pending(self._compute.answer_within_s)
        self._memory = WorkerMemory()
        self._wanted_size = actors
        self._pace = Pace(max(1, actors.of(len(self.blocks.work)).most), readers)
        self._crew = Crew(
            executor,
            self.blocks,
            self._pending,
            self._memory,
            self,
            size=actors.of(len(self.blocks.work)),
            attempts=self._compute.attempts,
            patience_s=self._compute.machines_within_s,
        )
        self._sizes = block_sizes(plan, len(legend))
        self.need = store_need(self.blocks.work, self._sizes)
        self.room = StoreRoom(self.blocks, self._sizes, self.need)
        self._look_again_at = 0.0
        self._look_at_machines()

    # -- the loop ---------------------------------------------------------------------------------------------------

    def run(self) -> EngineReport:
        """Runs until every wanted block is written or given up.

        Raises:
            ClusterError: No actor could be had, actors go on dying, or nothing answers any more.
            SpexError: The model cannot be loaded, or workers are not what the driver is.
            DiskRefusedError: Blocks cannot be kept any more.
        """
        total = sum(len(zone.blocks) for zone in self._plan.zones)
        self._progress.start("mapping", total, "blocks", done=total - self.blocks.open)
        if not self.blocks.open:
            return self.report
        if told := self.room.told(self._in_flight_limit):
            self._progress.say(told)
        try:
            self._loop()
        finally:
            self._dismiss()
        self._note_pace()
        if told := self._pace.text():
            self._progress.say(told)
        self.report.held_peak_bytes = self.room.peak_bytes
        self.report.pixels, self.report.seconds = self._pace.pixels, self._pace.seconds
        self.report.worker_peak_mb = self._memory.peak_mb
        return self.report

    def _loop(self) -> None:
        moved = checked = self._executor.clock()
        while self.blocks.open:
            self._feed()
            self._note_pace()
            if not len(self._pending):
                raise ClusterError("the run has stalled: blocks are left but nothing is under way; please report this")
            now = self._executor.clock()
            timeout = max(0.0, min(LOOK_AGAIN_S, self._pending.next_deadline - now))
            for reference in self._executor.wait(self._pending.references(), timeout):
                if reference in self._pending and self._answer(reference):
                    moved = self._executor.clock()
            now = self._executor.clock()
            self._end_overdue(now)
            if told := self._crew.waiting_text(now):
                self._progress.say(told)
            if not self._crew.check_patience(now):
                moved += now - checked  # while there is no actor, that clock stands still: another one runs
            self._check_progress(now, moved)
            checked = now

    def _look_at_machines(self) -> None:
        """They come and go: what they carry decides how many actors, readers and bytes there may be."""
        there = self._executor.capacity()
        self._wanted_size = self._wanted_size.grown(there.actors)
        self._crew.size = self._wanted_size.of(len(self.blocks.work))
        if self._wanted_size.follows and self._compute.readers is None and self._wanted_size.most > self._readers:
            self._readers = self._pace.readers = self._wanted_size.most
            self._executor.allow_readers(self._readers)
        self.room.resize(there.store_bytes, self._in_flight_limit)
        self._look_again_at = self._executor.clock() + LOOK_AGAIN_S

    @property
    def _in_flight_limit(self) -> int:
        """Blocks between the start of reading and the end of classification, at most."""
        return max(len(self._crew), self._crew.size.least) * (1 + self._compute.prefetch)

    def _note_pace(self) -> None:
        now, pending = self._executor.clock(), self._pending
        at_work, there = self._crew.at_work(), len(self._crew)
        self._pace.note(now, AtWork(at_work, pending.count("read"), pending.count("finish"), there))
        if self._pace.due(now) and (told := self._pace.text()):
            self._progress.say(told)

    def _answer(self, reference: Reference) -> bool:
        """Takes an answer or a failure; whether it moved a block on."""
        call = self._pending.pop(reference)
        try:
            answer = self._executor.get(reference)
        except CallFailedError as failure:
            if failure.trouble is Trouble.FATAL:
                raise failure.error from None
            call.failed(failure)
            return False
        if (memory := getattr(answer, "memory", None)) is not None:
            self._memory.note(memory, lasting=call.lasting, at_once=self._readers)
        call.answered(answer)
        return call.kind != "load"

    def _end_overdue(self, now: float) -> None:
        # Not in the loop itself: its variables would keep what the last of these calls was given, until the next one.
        for call in self._pending.overdue(now):
            if call.reference in self._pending:
                self._give_up_waiting(call)

    def _give_up_waiting(self, call: Call) -> None:
        self._pending.pop(call.reference)
        self._executor.cancel(call.reference)
        waited = duration_text(self._compute.answer_within_s)
        reason = f"no answer within {waited} (compute.answer_within_s)"
        call.failed(CallFailedError(Trouble.WORKER, ClusterError(reason), reason))

    def _check_progress(self, now: float, moved: float) -> None:
        if now - moved > STALL_DEADLINES * self._compute.answer_within_s:
            raise ClusterError(
                f"nothing has answered for {duration_text(now - moved)}; waiting for: {self._pending.told(now)}. "
                "Finished blocks are kept: look after the cluster and run again"
            )

    def _feed(self) -> None:
        if self._executor.clock() >= self._look_again_at:
            self._look_at_machines()
        self._crew.send()
        self._read_ahead()  # before actors are hired: where cores are few, the first reader must not wait for one
        self._crew.adjust()

    def _read_ahead(self) -> None:
        for work in self.room.recall():
            self.look_at(work, *self.blocks.needs(work))
        # Slow writing must hold back reading too, or finished pieces would pile up in the object store.
        writing = max(0, self._pending.count("finish") - self._readers)
        while self.room.somewhere and len(self._to_read) and self._pending.count("read") < self._reading:
            in_flight = sum(self.blocks[key].stage is not Stage.IDLE for key in self.room.active)
            if in_flight + writing >= self._in_flight_limit:
                return
            work = self.blocks[self._by_order[self._to_read.first]]
            if self.blocks.lacks_reading(work):
                if not self.room.fits(work):
                    if in_flight or self._pending.count("finish"):
                        return  # what is under way will make room
                    if (aside := self.room.make()) is not None:
                        self.look_at(aside)
                        continue
                self._start_reading(work)
            self._to_read.pop()

    # -- reading ----------------------------------------------------------------------------------------------------

    def _start_reading(self, work: Work) -> None:
        work.stage, work.begun = Stage.READING, self._executor.clock()
        self.room.enter(work)
        answer = self._executor.read(work.key[0], work.block)

        def answered(report: Any) -> None:
            if self._crew.starving():
                self._reading = min(self._reading + 1, self._readers)
            fresh = work.layers is None and not any(piece is not None for piece in work.pieces.values())
            work.problems = report.problems if fresh else tuple(dict.fromkeys((*work.problems, *report.problems)))
            work.incomplete = report.incomplete or (work.incomplete and not fresh)
            if work.wanted and work.ending in UNWRITTEN and not work.aside:
                work.layers = answer.layers
            work.stage = Stage.IDLE
            if report.empty:
                for taker in self.blocks.takers(work):
                    work.pieces.setdefault(taker.key[1], None)
            elif self.blocks.lacks_pieces(work):
                work.pixels, work.stage = answer.pixels, Stage.READ
                self._crew.add(work)
            self.look_at(work)

        def failed(failure: CallFailedError) -> None:
            work.stage = Stage.IDLE
            if failure.trouble is Trouble.LOST:
                self._count_loss(work, failure)
            else:
                self.count(work, failure)

        self._pending.add(Call("read", work.title, answer.report, answered, failed), self._executor.clock())

    # -- finishing --------------------------------------------------------------------------------------------------

    def look_at(self, *works: Work) -> None:
        """After anything changed about a block: has it, or who needs it, something to do, or nothing to hope for?"""
        for work in works:
            for touched in {entry.key: entry for entry in (work, *self.blocks.takers(work))}.values():
                if self.blocks.hopeless(touched):
                    self._fail(touched, touched.given_up or "")
                elif self.blocks.ready(touched):
                    self._start_finishing(touched)
                elif self.blocks.lacks_reading(touched):
                    self._to_read.put(touched.order)

    def _start_finishing(self, work: Work) -> None:
        work.ending = Ending.FINISHING
        index, needs = work.key[1], self.blocks.needs(work)
        missing = self.blocks.missing_sources(work)
        problems = (*work.problems, *(f"the tiles of neighbouring block {need} are missing" for need in missing))
        incomplete = bool(missing) or any(need.incomplete for need in needs)
        sizes, layers = self._sizes, work.layers
        held = {need.key: need.pieces.get(index) for need in needs}
        given = {piece: sizes[need].pieces.get(index, 0) for need, piece in held.items() if piece is not None}
        pieces = list(given)
        if layers is None:
            raise AssertionError(f"{work.title} was to be merged without its layers")
        reference = self._executor.finish(work.key[0], work.block, layers, pieces)
        work.given = {layers: sizes[work.key].layers, **given}

        def answered(report: Any) -> None:
            work.ending, work.given = Ending.FINISHED, {}
            self.blocks.let_go(work)
            self.blocks.open -= 1
            self.report.finished += 1
            self._pace.pixels += work.block.window.height * work.block.window.width
            self.report.incomplete += incomplete
            seconds = round(self._executor.clock() - work.begun, 3)
            # One pixel of a large block is not none: see pipeline/runs/emptiness.py.
            share = max(round(report.valid_share, 6), 1e-6) if report.valid_share > 0.0 else 0.0
            self._journal.append(
                BlockFinished(self._epsg(work), index, seconds, share, report.sha256, problems, incomplete)
            )
            self._progress.advance()

        def failed(failure: CallFailedError) -> None:
            work.ending, work.given = Ending.OPEN, {}
            if failure.trouble is Trouble.LOST:
                self.forget(failure, [layers, *pieces])
            else:
                work.write_attempts += 1
                if work.write_attempts >= self._compute.attempts:
                    self._fail(work, failure.reason)
                    return
                logger.warning("writing %s failed (%s); trying again", work.title, failure.reason)
            self.look_at(*needs)

        self._pending.add(Call("finish", work.title, reference, answered, failed), self._executor.clock())

    # -- failures ---------------------------------------------------------------------------------------------------

    def forget(self, failure: CallFailedError, given: Sequence[Reference]) -> None:
        """Objects are gone with a machine: whatever of any block went with it is missing from now on."""
        held = [reference for key in sorted(self.room.active) for reference in self.blocks[key].references()]
        lost = self._executor.gone(list(dict.fromkeys((*given, *held))), failure)
        if not lost.intersection(given):
            # Where it cannot be told, all that the call was given counts as gone: more work, never a hole.
            lost |= frozenset(given)
        for work in [self.blocks[key] for key in sorted(self.room.active)]:
            if self.blocks.lose(lost, work):
                self._count_loss(work, failure)

    def _count_loss(self, work: Work, failure: CallFailedError) -> None:
        """Something of a block went away with a machine: computed again, but not for ever."""
        work.losses += 1
        if work.losses > MAX_LOSSES:
            self._give_up(work, f"its data went away with machines {work.losses} times; the last: {failure.reason}")
            return
        logger.warning("%s: data went away with a machine (%s); computing it again", work.title, failure.reason)
        self.look_at(work)

    def count(self, work: Work, failure: CallFailedError) -> None:
        """A failure that may be the block's own: tried again, or given up."""
        work.attempts += 1
        if work.attempts >= self._compute.attempts:
            self._give_up(work, failure.reason)
            return
        logger.warning("%s failed (%s); trying again", work.title, failure.reason)
        self.look_at(work)

    def _give_up(self, work: Work, reason: str) -> None:
        """Its tiles will not be classified. Pieces that it has given still serve; those who lack one do without."""
        work.given_up = reason
        self._crew.forgive()
        if work.stage is Stage.READ:
            work.stage, work.pixels = Stage.IDLE, None
        self.look_at(work)

    def _fail(self, work: Work, reason: str) -> None:
        """Records a block as missing. Its pieces, if it has any, still serve its neighbours."""
        work.ending = Ending.FAILED
        self.blocks.let_go(work)
        self.blocks.open -= 1
        attempts = max(work.attempts, work.write_attempts)
        logger.error("%s is given up after %d attempts: %s", work.title, attempts, reason)
        self.report.failed.append(FailedBlock(work.key, reason))
        self._journal.append(BlockFailed(self._epsg(work), work.key[1], attempts, reason))
        self._progress.advance()

    def _epsg(self, work: Work) -> int:
        return self._plan.zones[work.key[0]].grid.epsg

    def _dismiss(self) -> None:
        self._crew.dismiss()
        for reference in self._pending.references():
            self._executor.cancel(reference)
