"""Processes that read and finish blocks, and stay: starting one per block costs more than the block.

Ray ends idle task processes beyond the number of cores after a second and starts new ones, each importing everything
(141 starts in one Sentinel-2 granule). These are actors instead: started once, given the zones' contexts once, and
replaced when they die, hang, or have handled so many blocks that their memory has crept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.engine.executor import ActorHandle, Reference, Trouble
from pipeline.engine.ray_errors import trouble_of
from pipeline.engine.tasks import BlockReport, ReadLayers, ReadReport, ZoneContext, finish_block, read_block
from pipeline.machine.wheel_data import leave_out_foreign_data
from pipeline.predict.stitch import Piece
from pipeline.records.plan import Block

IoKind = Literal["read", "finish"]
LINE = 6
"""Calls in every line before another process is started for a block that is to be finished: a start takes as long as
they do."""
CALLS_PER_WORKER = 1024
"""Blocks that one process handles before another takes its place: memory creeps where thousands of files are opened."""


class IoWorker:
    """The actor: reads and finishes blocks of zones whose contexts it holds. Plain Python, wrapped by the engine."""

    def __init__(self, contexts: Sequence[ZoneContext]) -> None:
        leave_out_foreign_data()  # of the machine that this worker lives on
        self._contexts = contexts

    def place(self) -> str:
        """Id (hex) of the Ray node that it lives on."""
        import ray

        node: str = ray.get_runtime_context().get_node_id()
        return node

    def read(self, zone: int, block: Block) -> tuple[Any, ReadLayers, ReadReport]:
        """See :func:`pipeline.engine.tasks.read_block`."""
        return read_block(self._contexts[zone], block)

    def finish(self, zone: int, block: Block, layers: ReadLayers, *pieces: Piece | None) -> BlockReport:
        """See :func:`pipeline.engine.tasks.finish_block`."""
        return finish_block(self._contexts[zone], block, layers, *pieces)


@dataclass(eq=False)
class _Worker:
    handle: ActorHandle
    place: Reference
    """Its node, once it has started."""
    line: dict[Reference, IoKind] = field(default_factory=dict)
    """Calls without an answer so far; it works on the first."""
    calls: int = 0
    blamed: Reference | None = None
    """What it worked on when it died."""
    innocent: bool = False
    """None of its calls is to blame: its machine is gone, or it had not started."""

    @property
    def reads(self) -> int:
        """Readings in its line."""
        return list(self.line.values()).count("read")


class IoPool:
    """So many such processes as the calls need; each call goes to the one with the shortest line.

    Readings are never put behind each other: the driver asks for as many at a time as it wants read at a time. Blocks
    to be finished wait behind others before another process is started for them.

    Args:
        ray: The module.
        actor_class: :class:`IoWorker` as a Ray actor class.
        contexts: Reference of what each is given.
        size: How many there are at most.
    """

    def __init__(self, ray: Any, actor_class: Any, contexts: Reference, size: int) -> None:
        self._ray, self._actor_class, self._contexts = ray, actor_class, contexts
        self.size = size
        """The most that there may be; it may change."""
        self._workers: list[_Worker] = []
        self._of: dict[Reference, _Worker] = {}

    def next(self, kind: IoKind) -> ActorHandle:
        """The process that takes the next call; :meth:`sent` must follow."""
        # Stable: who has waited longest comes first.
        self._workers.sort(key=lambda worker: (kind == "read" and worker.reads > 0, len(worker.line)))
        best = self._workers[0] if self._workers else None
        busy = best is None or (best.reads > 0 if kind == "read" else len(best.line) >= LINE)
        if busy and len(self._workers) < self.size:
            handle = self._actor_class.remote(self._contexts)
            self._workers.insert(0, _Worker(handle, handle.place.remote()))
        return self._workers[0].handle

    def sent(self, kind: IoKind, reference: Reference) -> None:
        """The call that :meth:`next` was asked for is under way; ``reference`` answers last."""
        worker = self._workers.pop(0)
        worker.line[reference] = kind
        worker.calls += 1
        self._of[reference] = worker
        if worker.calls < CALLS_PER_WORKER:
            self._workers.append(worker)  # else it goes when its line has been answered

    def answered(self, reference: Reference) -> None:
        """A call has an answer, or an error of its own."""
        worker = self._of.pop(reference, None)
        if worker is None:
            return
        del worker.line[reference]
        if worker.calls >= CALLS_PER_WORKER and not worker.line:
            self._ray.kill(worker.handle)

    def died(self, reference: Reference) -> bool:
        """A call has no answer because its process is gone: the process is replaced.

        With a machine go all processes on it, those too that had nothing to do: they are dropped together, or the next
        calls would be sent to them one after the other.

        Returns:
            Whether the call may be to blame: the process worked on it, and it was not the machine that went.
        """
        worker = self._of.get(reference)
        if worker is None:
            return True  # the process was ended because of this call
        if worker.blamed is None:  # the first of its calls that is told
            # It worked on the first one without an answer; some may have been answered and not been asked for yet.
            worker.blamed = next((call for call in worker.line if not self._done(call)), reference)
            node = self._node(worker)
            worker.innocent = node not in {entry["NodeID"] for entry in self._ray.nodes() if entry["Alive"]}
            if worker.innocent and node is not None:
                for other in [o for o in self._workers if o is not worker and self._node(o) == node]:
                    self._drop(other)
        del self._of[reference], worker.line[reference]
        self._drop(worker)
        return worker.blamed == reference and not worker.innocent

    def _node(self, worker: _Worker) -> str | None:
        """Where a process lives; None before it has started."""
        from ray.exceptions import RayError

        try:
            node: str = self._ray.get(worker.place, timeout=0)
        except RayError:  # not started, or started nowhere
            return None
        return node

    def end(self, reference: Reference) -> None:
        """Ends the process that has a call, if one of these has it; another takes its place."""
        worker = self._of.pop(reference, None)
        if worker is not None:
            del worker.line[reference]
            self._drop(worker)

    def _done(self, reference: Reference) -> bool:
        """Whether a call of a process that is gone has an answer."""
        from ray.exceptions import GetTimeoutError

        try:
            self._ray.get(reference, timeout=0)
        except GetTimeoutError:
            return False
        except Exception as error:
            return trouble_of(error) is not Trouble.WORKER
        return True

    def _drop(self, worker: _Worker) -> None:
        if worker in self._workers:
            self._workers.remove(worker)
        self._ray.kill(worker.handle)
