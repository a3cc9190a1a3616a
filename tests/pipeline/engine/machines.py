"""What a world of failing machines is made of: objects, machines, processes at work."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from pipeline.engine.executor import CallFailedError
from pipeline.engine.work import Key
from pipeline.machine.memory import ProcessMemory

FAULTS = (
    "read raises",
    "reader dies",
    "read hangs",
    "read is late",
    "read answer is lost",
    "classify raises",
    "actor dies at work",
    "actor dies idle",
    "actor hangs",
    "actor dies loading",
    "load hangs",
    "finish raises",
    "finisher dies before writing",
    "finisher dies after writing",
    "finish hangs",
    "finish is late",
    "machine dies",
    "machine is out of reach",
    "object is evicted",
    "pixels are evicted",
    "nobody knows what is lost",
    "block poisons readers",
    "block poisons actors",
    "block poisons finishers",
    "scene unread",
)
"""What can go wrong; each world draws which of these do, and how often."""


@dataclass(eq=False)
class Ref:
    """One object or answer."""

    number: int
    what: str
    key: Key
    size: int = 0
    home: Machine | None = None
    ready: bool = False
    value: Any = None
    failure: CallFailedError | None = None
    lost: bool = False


@dataclass(eq=False)
class Machine:
    """One node; the first is the driver's own."""

    number: int
    alive: bool = True
    reachable_at: float = 0.0
    """No word of it arrives before."""
    slots: int = 99
    """Model actors that it carries."""
    idle_until: float = 0.0
    """An autoscaler does not take it back before."""


@dataclass(eq=False)
class Running:
    """One call in a process of a machine."""

    kind: str
    key: Key
    machine: Machine
    refs: list[Ref]
    given: list[Ref] = field(default_factory=list)
    over: bool = False
    """Answered, failed or ended."""
    unwanted: bool = False
    """The driver has given it up."""


@dataclass(eq=False)
class Actor:
    """One model actor; it works on the first of its queue."""

    machine: Machine | None
    """None: no machine carries it yet."""
    load: Ref
    alive: bool = True
    loaded: bool = False
    hanging: bool = False
    queue: deque[Running] = field(default_factory=deque)
    reports: list[Ref] = field(default_factory=list)
    """Of all calls, answered or not."""


@dataclass(frozen=True)
class Written:
    """What stands in the store under a block."""

    sources: frozenset[int]


def memory_of(machine: Machine) -> ProcessMemory:
    """What its processes say of themselves."""
    return ProcessMemory(f"machine {machine.number}", 1, 100.0)
