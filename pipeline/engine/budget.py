"""How much a run holds at a time, in bytes: known from the plan before it begins, and kept while machines fail.

Pixels, layers and pieces live in the object store from the start of the call that makes them until nobody needs them.
What is held in an undisturbed run is the front of half-finished blocks and the blocks in flight; where answers come
late or out of order the front grows, and reading stops until it has shrunk again. What the object stores have room for
is never exceeded (docs/decisions/0033): Ray would spill the rest to a disk without a word, or wait for room that
nobody makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.engine.executor import Reference
from pipeline.engine.work import Key, Stage, Work, open_work
from pipeline.machine.collection import collection_paused
from pipeline.records.grid import SEEN_PX
from pipeline.records.plan import MapPlan, Window
from pipeline.records.windows import intersection
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
    """Sizes of every block of a plan: float32 pixels (of all dates, where they go to the model) and pieces, int16
    indices, uint8 counts and colours, and what words are asked with.

    A piece covers at most what its source reads of its target.
    """
    found = {}
    words = plan.config.get("model", {}).get("explain", "none") != "none"
    seen = 2 * len(SENTINEL2_BANDS) // SEEN_PX**2 if words else 0
    for position, zone in enumerate(plan.zones):
        dates = plan.date_layers(zone)
        pieces: dict[int, dict[int, int]] = {block.index: {} for block in zone.blocks}
        for target in zone.blocks:
            for source in target.needs:
                shared = intersection(zone.blocks[source].read_window, target.window)
                pieces[source][target.index] = 4 * (classes + 1) * _area(shared) if shared else 0
        for block in zone.blocks:
            # The composite, and of each layer of dates the bands and the dates' numbers (uint16).
            pixels = (4 * len(SENTINEL2_BANDS) * (1 + dates) + 2 * dates) * _area(block.read_window)
            layers = (2 * len(SPECTRAL_INDICES) + 4 + seen) * _area(block.window)
            found[position, block.index] = Sizes(pixels, layers, pieces[block.index])
    return found


@dataclass(frozen=True)
class StoreNeed:
    """What the blocks of a run ask of the object store, bytes."""

    front: int
    """Half-finished blocks hold at most so much when all are computed one by one, in order."""
    largest: int
    """The largest block on its way: its pixels, layers and pieces."""
    least: int
    """One target with the pieces of all its neighbours, and beside it the largest block on its way: with less nothing
    can be mapped, with so much everything can."""

    def wanted(self, in_flight: int) -> int:
        """With so much a run of ``in_flight`` blocks at a time is never held up."""
        return self.front + in_flight * self.largest

    def most(self, in_flight: int) -> int:
        """More is not held even where answers come late or out of order."""
        return self.front + DISORDER * in_flight * self.largest


def store_need(work: Mapping[Key, Work], sizes: Mapping[Key, Sizes]) -> StoreNeed:
    """What computing these blocks asks of the object store.

    Args:
        work: The blocks to compute.
        sizes: Of each block.
    """
    largest = max((sizes[key].total for key in work), default=0)
    targets = (target_bytes(entry, sizes) for entry in work.values() if entry.wanted)
    return StoreNeed(front_bytes(work, sizes), largest, max(targets, default=0) + largest)


def plan_need(plan: MapPlan, classes: int, finished: frozenset[Key]) -> StoreNeed:
    """The same of a plan, before anything is started."""
    return store_need(open_work(plan, finished), block_sizes(plan, classes))


def target_bytes(work: Work, sizes: Mapping[Key, Sizes]) -> int:
    """What a target holds once all that it is merged from is there."""
    zone, index = work.key
    return sizes[work.key].layers + sum(sizes[zone, need].pieces.get(index, 0) for need in work.block.needs)


def held_bytes(active: Iterable[Work], sizes: Mapping[Key, Sizes]) -> int:
    """What blocks on their way hold now; a call that is under way counts with what it will bring.

    What is there is counted by its reference: a block that is computed again holds its old pieces beside the new ones,
    and a call holds what it was given although the block may have newer ones by then.
    """
    to_come = 0
    there: dict[Reference, int] = {}
    for work in active:
        size = sizes[work.key]
        if work.stage is not Stage.IDLE:
            to_come += size.pixels + sum(size.pieces.values())
            to_come += size.layers if work.stage is Stage.READING else 0
        if work.layers is not None:
            there[work.layers] = size.layers
        for target, piece in work.pieces.items():
            if piece is not None:
                there[piece] = size.pieces.get(target, 0)
        there.update(work.given)
    return to_come + sum(there.values())


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
