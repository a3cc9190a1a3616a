"""The model actors of a run: hired, sent blocks, replaced when they die, let go when there is nothing for them.

The crew grows while more blocks wait than those that are there and those that are starting will take, and shrinks when
an actor has had nothing to do for a while. An actor that no machine carries yet is starting like any other: to an
autoscaler it is the demand for a machine, and a node that joins is used by the next actor that waits for one.

An actor works on one block at a time, in the order of asking, with one more waiting. When it dies the block that it was
working on may have killed it, and is counted; the one behind it goes back with its pixels as if it had never been sent.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.engine.executor import ActorHandle, CallFailedError, Executor, Reference, Trouble
from pipeline.engine.pending import Call, Pending
from pipeline.engine.work import Stage, Work, Worklist
from pipeline.engine.worker_memory import WorkerMemory
from pipeline.errors import ClusterError
from pipeline.machine.progress import duration_text

logger = logging.getLogger(__name__)

CALLS_PER_ACTOR = 2
"""One running, one waiting: an actor never idles between blocks, and little is lost when it dies."""
IDLE_S = 60.0
"""An actor that has had nothing to do for so long is let go: a model loads in less, a rented machine costs more."""
TELL_WAITING_S = 60.0
"""After so long without any actor people are told what is waited for, and then every five times that."""


@dataclass(frozen=True)
class CrewSize:
    """How many model actors a run has."""

    least: int
    """From the start to the end."""
    most: int
    """While blocks wait for one."""
    follows: bool = False
    """Both rise with what the machines carry, when more of them join."""

    @property
    def told(self) -> str:
        """For people."""
        if self.least == self.most:
            return f"{self.most} model actor{'s' if self.most != 1 else ''}"
        return f"{self.least} to {self.most} model actors"

    def grown(self, carried: int) -> CrewSize:
        """Where it follows: by what the machines carry now. It does not shrink: who goes is asked for again."""
        if not self.follows or carried <= self.most:
            return self
        return CrewSize(carried if self.least == self.most else self.least, carried, follows=True)

    def of(self, blocks: int) -> CrewSize:
        """Not more than there are blocks."""
        return CrewSize(min(self.least, blocks), min(self.most, blocks), self.follows)


class Decisions(Protocol):
    """What the driver decides about a block."""

    def look_at(self, *works: Work) -> None:
        """Something about these blocks has changed."""

    def count(self, work: Work, failure: CallFailedError) -> None:
        """A failure that may be the block's own."""

    def forget(self, failure: CallFailedError, given: Sequence[Reference]) -> None:
        """Some of what a call was given is gone."""


@dataclass(eq=False)
class _Actor:
    handle: ActorHandle
    load: Call | None = None
    loaded: bool = False
    worked: bool = False
    """It has classified a block."""
    idle_since: float | None = None
    """Since when there has been nothing for it to do."""
    sent: list[tuple[Call, Work]] = field(default_factory=list)
    """Blocks that it has not answered yet; it works on the first."""


class Crew:
    """All actors of a run, and the blocks that wait for one.

    Args:
        executor: Where they live.
        blocks: What each block lacks.
        pending: Calls under way.
        memory: Told of actors that go.
        decide: The driver.
        size: How many actors there are to be.
        attempts: ``compute.attempts``; so many deaths per actor, one after the other, are borne.
        patience_s: How long there may be no actor at all (``compute.machines_within_s``).
    """

    def __init__(
        self,
        executor: Executor,
        blocks: Worklist,
        pending: Pending,
        memory: WorkerMemory,
        decide: Decisions,
        *,
        size: CrewSize,
        attempts: int,
        patience_s: float,
    ) -> None:
        self._executor, self._blocks, self._pending, self._memory = executor, blocks, pending, memory
        self._decide, self.size, self._attempts, self._patience_s = decide, size, attempts, patience_s
        self._actors: list[_Actor] = []
        self._readable: deque[Work] = deque()
        """Read, not yet sent to an actor."""
        self._deaths = 0
        """Since a block was last classified or given up."""
        self._none_since: float | None = None
        self._told_at = 0.0

    def __len__(self) -> int:
        """Actors that are there or starting."""
        return len(self._actors)

    def adjust(self) -> None:
        """Hires whom the waiting blocks are for, and lets go whom there is nothing for."""
        while len(self._actors) < self.size.least or (len(self._actors) < self.size.most and self._want_another()):
            self.hire()
        now = self._executor.clock()
        for actor in list(self._actors):
            if actor.sent or self._readable:
                actor.idle_since = None
            elif actor.idle_since is None:
                actor.idle_since = now
        idle = [a for a in self._actors if a.idle_since is not None and now - a.idle_since >= IDLE_S]
        idle.sort(key=lambda actor: actor.loaded)  # those that wait for a machine go first
        for actor in idle[: max(0, len(self._actors) - self.size.least)]:
            self._let_go(actor)

    def _want_another(self) -> bool:
        starting = sum(not actor.loaded for actor in self._actors)
        free = sum(CALLS_PER_ACTOR - len(actor.sent) for actor in self._actors if actor.loaded)
        return len(self._readable) > CALLS_PER_ACTOR * starting + free

    def _let_go(self, actor: _Actor) -> None:
        self._actors.remove(actor)
        if actor.load is not None:
            self._pending.discard(actor.load.reference)
        self._executor.kill(actor.handle)
        self._memory.forget_lasting(actor)
        logger.info("a model actor is let go: nothing has waited for it for %s", duration_text(IDLE_S))

    def dismiss(self) -> None:
        """Ends them all."""
        for actor in self._actors:
            self._executor.kill(actor.handle)

    def add(self, work: Work) -> None:
        """A block has been read and is to be classified."""
        self._readable.append(work)

    def forgive(self) -> None:
        """A block has been given up: the deaths that it caused are explained."""
        self._deaths = 0

    def at_work(self) -> int:
        """Actors that have something to classify."""
        return sum(bool(actor.sent) for actor in self._actors)

    def starving(self) -> bool:
        """Whether an actor has nothing to do any more because nothing has been read for it.

        All wait for their first block, whoever reads; another reader would come too late to change that.
        """
        return not self._readable and any(actor.worked and not actor.sent for actor in self._actors)

    def check_patience(self, now: float) -> bool:
        """Whether there is an actor.

        Raises:
            ClusterError: There has been none for too long.
        """
        if any(actor.loaded for actor in self._actors):
            self._none_since = None
            return True
        if self._none_since is None:
            self._none_since = now
        if now - self._none_since > self._patience_s:
            raise ClusterError(
                f"no model actor could start within {duration_text(self._patience_s)} (compute.machines_within_s): has "
                "the cluster the CPUs and GPUs that each needs (compute.threads_per_actor, compute.gpus_per_actor)? "
                "Finished blocks are kept"
            )
        return False

    def waiting_text(self, now: float) -> str:
        """What people should know of a wait for the first actor; empty while there is one, and between two tellings."""
        if self._none_since is None or now - self._none_since < TELL_WAITING_S:
            return ""
        if self._told_at > self._none_since and now - self._told_at < 5 * TELL_WAITING_S:
            return ""
        self._told_at = now
        return (
            f"waiting for machines: model actors asked for: {len(self._actors)}, none has started for "
            f"{duration_text(now - self._none_since)}; the run waits {duration_text(self._patience_s)} at most "
            "(compute.machines_within_s)"
        )

    def hire(self) -> None:
        handle, reference = self._executor.hire()
        actor = _Actor(handle)
        self._actors.append(actor)

        def loaded(_: Any) -> None:
            actor.loaded, actor.load = True, None

        def failed(failure: CallFailedError) -> None:
            if failure.trouble is Trouble.OWN:
                raise failure.error  # the model itself cannot be loaded: no other actor will do better
            self._replace(actor, failure)

        # No deadline of its own: a cluster may have to boot the machine first.
        actor.load = Call("load", "an actor", reference, loaded, failed, waits=True)
        self._pending.add(actor.load, self._executor.clock())

    def _replace(self, actor: _Actor, failure: CallFailedError) -> None:
        """An actor that died goes with all that it was sent, a new one comes."""
        self._actors.remove(actor)
        self._executor.kill(actor.handle)  # it may only be out of reach: no block is classified twice at a time
        self._memory.forget_lasting(actor)
        while actor.sent and self._took_answer(actor.sent[0][0]):
            pass  # what it had done before it died is as good as ever
        left, actor.sent = actor.sent, []
        for call, work in left:
            self._pending.discard(call.reference)
            work.stage = Stage.READ
        if left:  # the block it was working on may have killed it, those behind it have not
            self._decide.count(left[0][1], failure)
        for _, work in reversed(left):
            self._put_back(work)
        self._deaths += 1
        logger.warning("a model actor died (%s); starting another where it is wanted", failure.reason)
        if self._deaths > self._attempts * self.size.most + 2:
            raise ClusterError(f"{self._deaths} model actors died one after the other; the last: {failure.reason}")
        self.adjust()

    def _took_answer(self, call: Call) -> bool:
        """Takes an answer that is there already; False: there is none, or a failure."""
        if call.reference not in self._pending or not self._executor.wait([call.reference], 0.0):
            return False
        try:
            answer = self._executor.get(call.reference)
        except CallFailedError:
            return False
        self._pending.pop(call.reference)
        call.answered(answer)
        return True

    def send(self) -> None:
        while self._readable:
            ready = [actor for actor in self._actors if actor.loaded and len(actor.sent) < CALLS_PER_ACTOR]
            if not ready:
                return
            work = self._readable.popleft()
            if work.pixels is not None and self._blocks.lacks_pieces(work):
                self._classify(min(ready, key=lambda actor: len(actor.sent)), work, work.pixels)
            else:  # whoever wanted its tiles has been given up meanwhile
                work.stage, work.pixels = Stage.IDLE, None
                self._decide.look_at(work)

    def _classify(self, actor: _Actor, work: Work, pixels: Reference) -> None:
        work.stage = Stage.CLASSIFYING
        answer = self._executor.classify(actor.handle, work.key[0], work.block, work.targets, pixels)

        def answered(report: Any) -> None:
            actor.worked = True
            self._next_of(actor, work)
            for note in report.notes:
                logger.warning("%s: %s", work.title, note)
            work.problems = tuple(dict.fromkeys((*work.problems, *report.notes)))
            work.stage, work.pixels = Stage.IDLE, None
            self._deaths = 0
            pieces = dict(zip(work.targets, answer.pieces, strict=True))
            # Pieces of blocks that are written already are let go at once. A fresh piece is as good as an older one,
            # which may have gone with a machine that nobody has missed yet.
            work.pieces = {taker.key[1]: pieces[taker.key[1]] for taker in self._blocks.takers(work)}
            self._decide.look_at(work)

        def failed(failure: CallFailedError) -> None:
            if failure.trouble is Trouble.WORKER:
                self._replace(actor, failure)
                return
            self._next_of(actor, work)
            work.stage = Stage.READ
            if failure.trouble is Trouble.LOST:
                self._decide.forget(failure, [pixels])
            else:
                self._decide.count(work, failure)
            self._put_back(work)

        call = Call("classify", work.title, answer.report, answered, failed, lasting=actor, waits=bool(actor.sent))
        actor.sent.append((call, work))
        self._pending.add(call, self._executor.clock())

    def _next_of(self, actor: _Actor, done: Work) -> None:
        """An actor is through with a block: the time of the next one begins."""
        actor.sent = [(call, work) for call, work in actor.sent if work is not done]
        if actor.sent:
            self._pending.begin(actor.sent[0][0], self._executor.clock())

    def _put_back(self, work: Work) -> None:
        """After a failed classification: pixels that are still there need not be read again."""
        if work.stage is not Stage.READ or work in self._readable:
            return
        if work.pixels is not None and self._blocks.lacks_pieces(work):
            self._readable.appendleft(work)
        else:
            work.stage, work.pixels = Stage.IDLE, None
            self._decide.look_at(work)
