"""Memory of worker processes, from what each says of itself when it answers: on a cluster the driver cannot look."""

from __future__ import annotations

from collections.abc import Hashable

from pipeline.machine.memory import ProcessMemory


class WorkerMemory:
    """The highest sum over the processes that lived at a time.

    Model actors live until they are replaced. Readers and finishers are replaced without a word: those that answered
    last are taken for those that live.
    """

    def __init__(self) -> None:
        self._lasting: dict[Hashable, ProcessMemory] = {}
        self._passing: dict[tuple[str, int], float] = {}
        self.peak_mb = 0.0
        """Highest sum so far, MiB."""

    def note(self, memory: ProcessMemory, *, lasting: Hashable | None, at_once: int) -> None:
        """A process has answered.

        Args:
            memory: What it says.
            lasting: The actor, if it is one.
            at_once: Readers and finishers that live at a time.
        """
        if lasting is not None:
            self._lasting[lasting] = memory
        else:
            process = (memory.host, memory.pid)
            self._passing.pop(process, None)
            self._passing[process] = memory.peak_mb  # last of all
            while len(self._passing) > max(1, at_once):
                del self._passing[next(iter(self._passing))]
        # Several actors may share a process (pipeline/engine/model_seats.py), whose peak only rises.
        lasting_mb: dict[tuple[str, int], float] = {}
        for found in self._lasting.values():
            process = (found.host, found.pid)
            lasting_mb[process] = max(found.peak_mb, lasting_mb.get(process, 0.0))
        self.peak_mb = max(self.peak_mb, sum(lasting_mb.values()) + sum(self._passing.values()))

    def forget_lasting(self, actor: Hashable) -> None:
        """An actor is gone."""
        self._lasting.pop(actor, None)
