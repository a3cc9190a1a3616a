"""Calls that have not answered, and until when each may take."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.engine.executor import CallFailedError, Reference
from pipeline.machine.progress import duration_text

Kind = Literal["load", "read", "classify", "finish"]
_DOING: dict[Kind, str] = {
    "load": "loading the model into",
    "read": "reading",
    "classify": "classifying",
    "finish": "writing",
}
TOLD = 5
"""Calls that a message names."""


@dataclass(eq=False)
class Call:
    """One call under way."""

    kind: Kind
    title: str
    """Of its block, for a person."""
    reference: Reference
    answered: Callable[[Any], None]
    failed: Callable[[CallFailedError], None]
    lasting: Hashable | None = None
    """The model actor that runs it; None: a reader or finisher."""
    waits: bool = False
    """Somebody else decides when it begins: its time has not begun."""
    begun: float = 0.0
    deadline: float = math.inf


class Pending:
    """The calls of a run, by their references."""

    def __init__(self, answer_within_s: float) -> None:
        self._answer_within_s = answer_within_s
        self._calls: dict[Reference, Call] = {}
        self._counts: dict[Kind, int] = dict.fromkeys(_DOING, 0)

    def __len__(self) -> int:
        return len(self._calls)

    def __contains__(self, reference: Reference) -> bool:
        return reference in self._calls

    def references(self) -> list[Reference]:
        """Of all calls, oldest first."""
        return list(self._calls)

    def count(self, kind: Kind) -> int:
        """Calls of a kind."""
        return self._counts[kind]

    @property
    def next_deadline(self) -> float:
        """When the next call will be overdue; infinite if none will."""
        return min((call.deadline for call in self._calls.values()), default=math.inf)

    def add(self, call: Call, now: float) -> None:
        """A call was started."""
        call.begun = now
        if not call.waits:
            self.begin(call, now)
        self._calls[call.reference] = call
        self._counts[call.kind] += 1

    def begin(self, call: Call, now: float) -> None:
        """A call that waited for others has come to its turn."""
        call.begun, call.deadline = now, now + self._answer_within_s

    def pop(self, reference: Reference) -> Call:
        """A call has answered, or is not waited for any longer."""
        call = self._calls.pop(reference)
        self._counts[call.kind] -= 1
        return call

    def discard(self, reference: Reference) -> None:
        """Like :meth:`pop`, where it may be gone already."""
        if reference in self._calls:
            self.pop(reference)

    def overdue(self, now: float) -> list[Call]:
        """Calls that should have answered by now, oldest first."""
        return [call for call in self._calls.values() if now >= call.deadline]

    def told(self, now: float) -> str:
        """What is waited for, for a person."""
        calls = sorted(self._calls.values(), key=lambda call: call.begun)
        lines = [f"{_DOING[call.kind]} {call.title} for {duration_text(now - call.begun)}" for call in calls[:TOLD]]
        more = len(calls) - len(lines)
        return "; ".join(lines) + (f"; and {more} more" if more else "")
