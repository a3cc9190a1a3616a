"""What the driver asks of the machines: to start calls, to tell which have answered, to end what hangs.

The driver (:mod:`pipeline.engine.driver`) decides; whoever runs the calls stands behind :class:`Executor`. Runs use Ray
(:mod:`pipeline.engine.ray_executor`); the tests put a simulated world of failing machines in its place.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from pipeline.records.plan import Block

Reference = Hashable
"""Stands for an answer that may not be there yet; the answer itself stays where it was computed."""
ActorHandle = Any


class Trouble(Enum):
    """Whose fault it is that a call has no answer; decides what is done about it."""

    OWN = "own"
    """The call raised an error of its own: it is counted against its block."""
    WORKER = "worker"
    """The process that ran it is gone, or does not answer: counted too, since the block may have killed it."""
    LOST = "lost"
    """An object that it was given went away with its machine: computed again, and nobody's fault."""
    FATAL = "fatal"
    """No other worker would do better: the run ends with this error."""


class CallFailedError(Exception):
    """A call that has no answer. Never leaves the engine.

    Args:
        trouble: Whose fault it is.
        error: What happened, in the project's own words where there are any.
        reason: The same in one line.
        lost_object: Name of an object that is gone, where the executor knows one; a hint for :meth:`Executor.gone`.
    """

    def __init__(self, trouble: Trouble, error: Exception, reason: str, lost_object: str | None = None) -> None:
        super().__init__(reason)
        self.trouble, self.error, self.reason, self.lost_object = trouble, error, reason, lost_object


@dataclass(frozen=True)
class ReadAnswer:
    """References of a read."""

    pixels: Reference
    layers: Reference
    report: Reference
    """Answers last, with a :class:`~pipeline.engine.tasks.ReadReport`."""


@dataclass(frozen=True)
class ClassifyAnswer:
    """References of a classification."""

    pieces: tuple[Reference, ...]
    """One per target, in their order."""
    report: Reference
    """Answers last, with a :class:`~pipeline.predict.classifier.ClassifyReport`."""


@dataclass(frozen=True)
class Capacity:
    """What the machines that are there now carry."""

    actors: int
    """Model actors."""
    store_bytes: int
    """Of blocks on their way, a margin left."""


class Executor(Protocol):
    """Where calls run. Every call answers once, fails once, or never answers; it is never repeated in secret."""

    def clock(self) -> float:
        """Monotonic seconds."""

    def capacity(self) -> Capacity:
        """What the machines carry now; they may come and go."""

    def allow_readers(self, count: int) -> None:
        """From now on so many processes may read and finish."""

    def hire(self) -> tuple[ActorHandle, Reference]:
        """Starts a model actor; the reference answers once it has loaded its model."""

    def read(self, zone: int, block: Block) -> ReadAnswer:
        """Starts reading a block's composite."""

    def classify(
        self, actor: ActorHandle, zone: int, block: Block, targets: tuple[int, ...], pixels: Reference
    ) -> ClassifyAnswer:
        """Queues a block with an actor, which works on one at a time in the order of asking."""

    def finish(self, zone: int, block: Block, layers: Reference, pieces: Sequence[Reference]) -> Reference:
        """Starts merging pieces, in the order given, and writing the block."""

    def wait(self, references: Sequence[Reference], timeout_s: float) -> list[Reference]:
        """Some that have answered or failed, at least one unless the time is over."""

    def get(self, reference: Reference) -> Any:
        """The small answer of a call that is ready.

        Raises:
            CallFailedError: There is none.
        """

    def gone(self, given: Sequence[Reference], failure: CallFailedError) -> frozenset[Reference]:
        """Which objects that a failed call was given have gone with their machine, as far as can be told at once."""

    def kill(self, actor: ActorHandle) -> None:
        """Ends an actor, whatever it does; its calls fail or never answer."""

    def cancel(self, reference: Reference) -> None:
        """Ends a read or finish, as far as its machine can be reached; its answer is not wanted any more."""
