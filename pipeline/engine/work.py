"""The blocks of a run on their way: what is to be computed, in which order, and how far each block is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.records.plan import Block, MapPlan

Key = tuple[int, int]
"""(zone position in the plan, block index in the zone)."""


@dataclass
class Work:
    """One block on its way."""

    key: Key
    block: Block
    targets: tuple[int, ...]
    """Blocks that its tiles touch."""
    wanted: bool
    """It is to be written (False: only its neighbours need its tiles)."""
    attempts: int = 0
    state: Literal["open", "classified", "failed"] = "open"
    """``classified``: its pieces are there; ``failed``: they never will be."""
    pixels: Any = None
    """Reference of the reflectance, between reading and classifying."""
    layers: Any = None
    """Reference of index layers and counts, between reading and finishing."""
    problems: tuple[str, ...] = ()
    incomplete: bool = False
    """Some scene could not be read here."""
    begun: float = 0.0
    """Start of the latest reading, monotonic seconds."""
    pieces: dict[int, Any] = field(default_factory=dict)
    """Target block → reference of its piece; empty for a block without any measurement."""
    finishing: bool = False
    done: bool = False
    """Written, or given up."""

    @property
    def title(self) -> str:
        """Name of the block in messages."""
        window = self.block.window
        return f"block {self.key[1]} of zone {self.key[0] + 1} (row {window.row}, column {window.col})"


def open_work(plan: MapPlan, finished: frozenset[Key]) -> dict[Key, Work]:
    """The blocks to compute: those not finished, and those whose tiles they need."""
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
            work[key] = Work(key, blocks[index], tuple(sorted(targets[index])), index in wanted)
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
