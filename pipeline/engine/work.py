"""The blocks of a run on their way: what each has, what it still lacks, in which order they are taken.

A block is a *source* (its tiles give pieces to the blocks that they touch) and, if it is wanted, a *target* (it is
merged from pieces and written). Nothing here is done to a block because of what happened to it before; what it lacks is
read from what it has. So a loss needs no case of its own: what is gone is missing, and what is missing is computed.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from pipeline.engine.executor import Reference
from pipeline.records.plan import Block, MapPlan

Key = tuple[int, int]
"""(zone position in the plan, block index in the zone)."""


class Stage(Enum):
    """Where a source is; it is in one place at a time, so nothing about it is computed twice at once."""

    IDLE = "idle"
    READING = "reading"
    READ = "read"
    """Its pixels wait for an actor."""
    CLASSIFYING = "classifying"


class Ending(Enum):
    """Where a target is."""

    OPEN = "open"
    FINISHING = "finishing"
    FINISHED = "finished"
    FAILED = "failed"


UNWRITTEN = (Ending.OPEN, Ending.FINISHING)


@dataclass
class Work:
    """One block on its way."""

    key: Key
    block: Block
    targets: tuple[int, ...]
    """Blocks that its tiles touch, itself among them."""
    wanted: bool
    """It is to be written (False: only its neighbours need its tiles)."""
    order: int
    """Its place in the order of reading."""
    # as a source
    stage: Stage = Stage.IDLE
    pixels: Reference | None = None
    """Reflectance, between reading and classifying."""
    pieces: dict[int, Reference | None] = field(default_factory=dict)
    """Target → piece that is there; None: the block has no measurement, hence no piece to give."""
    given_up: str | None = None
    """Why its tiles will never be classified."""
    # as a target
    layers: Reference | None = None
    """Index layers and counts, between reading and finishing."""
    given: dict[Reference, int] = field(default_factory=dict)
    """What the call that merges it was given, bytes each."""
    ending: Ending = Ending.OPEN
    aside: bool = False
    """It has made room for others: it holds nothing and asks for nothing until it is recalled."""
    # what is told
    problems: tuple[str, ...] = ()
    incomplete: bool = False
    """Some scene could not be read here."""
    begun: float = 0.0
    """Start of the latest reading, seconds of the executor's clock."""
    attempts: int = 0
    """Failed readings and classifications that may be its own fault."""
    write_attempts: int = 0
    """Failures to write it."""
    losses: int = 0
    """How often something of it went away with a machine."""
    times_aside: int = 0
    """How often it made room."""

    @property
    def title(self) -> str:
        """Name of the block in messages."""
        window = self.block.window
        return f"block {self.key[1]} of zone {self.key[0] + 1} (row {window.row}, column {window.col})"

    def references(self) -> list[Reference]:
        """All that is held of it."""
        found = (self.pixels, self.layers, *self.pieces.values())
        return [reference for reference in found if reference is not None]


class Worklist:
    """All blocks of a run that are of any use, and what they lack."""

    def __init__(self, plan: MapPlan, finished: frozenset[Key]) -> None:
        self.work = open_work(plan, finished)
        self.open = sum(work.wanted for work in self.work.values())
        """Blocks still to be written or given up."""

    def __getitem__(self, key: Key) -> Work:
        return self.work[key]

    def needs(self, work: Work) -> list[Work]:
        """The sources of a target, in the fixed order of summation."""
        return [self.work[work.key[0], index] for index in work.block.needs]

    def takers(self, work: Work) -> list[Work]:
        """Targets of a source that are still to be written; those being written have what they need already."""
        zone = work.key[0]
        found = (self.work.get((zone, target)) for target in work.targets)
        return [t for t in found if t is not None and t.wanted and t.ending in UNWRITTEN and not t.aside]

    def lacks_pieces(self, work: Work) -> bool:
        """It is to be classified (again)."""
        if work.given_up is not None:
            return False
        return any(t.ending is Ending.OPEN and t.key[1] not in work.pieces for t in self.takers(work))

    def lacks_reading(self, work: Work) -> bool:
        """It is to be read (again), and nobody is at it."""
        if work.stage is not Stage.IDLE or work.given_up is not None:
            return False
        asks = work.wanted and work.ending is Ending.OPEN and not work.aside
        return (asks and work.layers is None) or self.lacks_pieces(work)

    def hopeless(self, work: Work) -> bool:
        """A target that lacks something of its own which will never come."""
        if not work.wanted or work.ending is not Ending.OPEN or work.given_up is None:
            return False
        return work.layers is None or work.key[1] not in work.pieces

    def ready(self, work: Work) -> bool:
        """A target that can be merged: it has its layers, and each source's piece is there or will never be."""
        index = work.key[1]
        return (
            work.wanted
            and work.ending is Ending.OPEN
            and work.layers is not None
            and all(index in need.pieces or need.given_up is not None for need in self.needs(work))
        )

    def missing_sources(self, work: Work) -> tuple[int, ...]:
        """Sources that a ready target must do without."""
        return tuple(need.key[1] for need in self.needs(work) if work.key[1] not in need.pieces)

    def let_go(self, work: Work) -> None:
        """After a target's end: what only it needed is not held any longer."""
        work.layers = None
        for need in self.needs(work):
            need.pieces.pop(work.key[1], None)

    def put_aside(self, work: Work) -> None:
        """An open target makes room: what only it needed is let go, and computed again when it is recalled."""
        work.aside = True
        work.times_aside += 1
        work.layers = None
        index = work.key[1]
        for need in self.needs(work):
            if need.pieces.get(index) is not None:  # that a block has nothing to give stays known
                del need.pieces[index]

    def lose(self, lost: frozenset[Reference], work: Work) -> bool:
        """Forgets what of a block is among the lost objects; whether anything was."""
        pieces = {target: piece for target, piece in work.pieces.items() if piece is None or piece not in lost}
        changed = len(pieces) < len(work.pieces)
        work.pieces = pieces
        if work.layers is not None and work.layers in lost:
            work.layers, changed = None, True
        if work.pixels is not None and work.pixels in lost:
            work.pixels, changed = None, True
        return changed


class ReadingOrder:
    """Places in the order of reading that are to be looked at, smallest first, each once."""

    def __init__(self, places: Iterable[int]) -> None:
        self._places = set(places)
        self._heap = sorted(self._places)

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def first(self) -> int:
        """The smallest."""
        return self._heap[0]

    def pop(self) -> int:
        """Takes the smallest out."""
        place = heapq.heappop(self._heap)
        self._places.discard(place)
        return place

    def put(self, place: int) -> None:
        """Adds one, unless it is there."""
        if place not in self._places:
            self._places.add(place)
            heapq.heappush(self._heap, place)


def open_work(plan: MapPlan, finished: frozenset[Key]) -> dict[Key, Work]:
    """The blocks to compute: those not finished, and those whose tiles they need."""
    order = {key: place for place, key in enumerate(block_order(plan))}
    work: dict[Key, Work] = {}
    for position, zone in enumerate(plan.zones):
        blocks = {block.index: block for block in zone.blocks}
        targets: dict[int, list[int]] = {index: [] for index in blocks}
        for block in zone.blocks:
            for need in block.needs:
                targets[need].append(block.index)
        wanted = {index for index in blocks if (position, index) not in finished}
        helpers = {need for index in wanted for need in blocks[index].needs}
        for index in sorted(wanted | helpers):
            key = (position, index)
            work[key] = Work(key, blocks[index], tuple(sorted(targets[index])), index in wanted, order[key])
    return work


def block_order(plan: MapPlan) -> list[Key]:
    """Blocks along the shorter side of each zone: the front of half-finished blocks, hence memory, stays short."""
    order: list[Key] = []
    for position, zone in enumerate(plan.zones):
        by_rows = zone.grid.width <= zone.grid.height

        def place(block: Block, by_rows: bool = by_rows) -> tuple[int, int]:
            window = block.window
            return (window.row, window.col) if by_rows else (window.col, window.row)

        order += [(position, block.index) for block in sorted(zone.blocks, key=place)]
    return order
