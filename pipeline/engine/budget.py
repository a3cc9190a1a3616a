"""How much a run holds at a time, in bytes: known from the plan before it begins, and kept while machines fail.

Pixels, layers and pieces live in the object store from the start of the call that makes them until nobody needs them.
What is held in an undisturbed run is the front of half-finished blocks and the blocks in flight; where answers come
late or out of order the front grows, and reading stops until it has shrunk again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.engine.work import Key, Stage, Work
from pipeline.machine.collection import collection_paused
from pipeline.records.grid import intersection
from pipeline.records.plan import MapPlan, Window
from spex_core.bands import SENTINEL2_BANDS
from spex_core.indices import SPECTRAL_INDICES

DISORDER = 4
"""How many blocks' worth may wait for each block in flight, when answers come out of order."""


@dataclass(frozen=True)
class Sizes:
    """What one block takes while it is on its way, bytes."""

    pixels: int
    layers: int
    pieces: Mapping[int, int]
    """Per target."""

    @property
    def total(self) -> int:
        """All of it together."""
        return self.pixels + self.layers + sum(self.pieces.values())


@collection_paused()
def block_sizes(plan: MapPlan, classes: int) -> dict[Key, Sizes]:
    """Sizes of every block of a plan: float32 pixels and pieces, int16 indices, uint8 counts.

    A piece covers at most what its source reads of its target.
    """
    found = {}
    for position, zone in enumerate(plan.zones):
        pieces: dict[int, dict[int, int]] = {block.index: {} for block in zone.blocks}
        for target in zone.blocks:
            for source in target.needs:
                shared = intersection(zone.blocks[source].read_window, target.window)
                pieces[source][target.index] = 4 * (classes + 1) * _area(shared) if shared else 0
        for block in zone.blocks:
            pixels = 4 * len(SENTINEL2_BANDS) * _area(block.read_window)
            layers = (2 * len(SPECTRAL_INDICES) + 1) * _area(block.window)
            found[position, block.index] = Sizes(pixels, layers, pieces[block.index])
    return found


def held_bytes(active: Iterable[Work], sizes: Mapping[Key, Sizes]) -> int:
    """What blocks on their way hold now; a call that is under way counts with what it will bring."""
    total = 0
    for work in active:
        size = sizes[work.key]
        if work.stage is not Stage.IDLE:
            total += size.total
            continue
        total += size.layers if work.layers is not None else 0
        total += sum(size.pieces.get(target, 0) for target, piece in work.pieces.items() if piece is not None)
    return total


def budget_bytes(work: Mapping[Key, Work], sizes: Mapping[Key, Sizes], in_flight: int) -> int:
    """The most that a run of these blocks may hold.

    Args:
        work: The blocks to compute.
        sizes: Of each block.
        in_flight: Blocks between the start of reading and the end of classification, at most.
    """
    largest = max((sizes[key].total for key in work), default=0)
    return front_bytes(work, sizes) + DISORDER * in_flight * largest


def front_bytes(work: Mapping[Key, Work], sizes: Mapping[Key, Sizes]) -> int:
    """The most that half-finished blocks hold when all are computed one by one, in order."""
    waiting = {key: set(entry.block.needs) for key, entry in work.items() if entry.wanted}
    held = peak = 0
    brought: dict[Key, int] = dict.fromkeys(waiting, 0)
    for entry in sorted(work.values(), key=lambda entry: entry.order):
        zone, index = entry.key
        for target in entry.targets:
            key = (zone, target)
            if key in waiting:
                size = sizes[entry.key].pieces.get(target, 0) + (sizes[key].layers if target == index else 0)
                brought[key] += size
                held += size
        peak = max(peak, held)
        for target in entry.targets:
            key = (zone, target)
            if key in waiting:
                waiting[key].discard(index)
                if not waiting[key]:
                    del waiting[key]
                    held -= brought[key]
    return peak


def _area(window: Window) -> int:
    return window.height * window.width
