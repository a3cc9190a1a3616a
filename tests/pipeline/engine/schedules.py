"""One simulated run per seed, and what must be true of it whatever went wrong.

Played by the tests (some thousand seeds) and by ``make faults`` (100,000). A seed that fails is printed; play it again:
``python -m tests.pipeline.engine.schedules SEED``.
"""

from __future__ import annotations

import argparse
import functools
import logging
import random
import re
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import shapely

from pipeline.engine import driver
from pipeline.engine.budget import Sizes, block_sizes, store_need
from pipeline.engine.crew import CrewSize
from pipeline.engine.driver import MAX_LOSSES, Engine
from pipeline.engine.work import Ending, Key, Work, open_work
from pipeline.errors import ClusterError
from pipeline.machine.progress import LogProgress
from pipeline.mapstore.journal import BlockFailed, BlockFinished
from pipeline.planning.blocks import plan_blocks
from pipeline.records.plan import Block, MapPlan, ZoneGrid, ZonePlan
from pipeline.settings.run_file import TilingConfig
from spex_core.legend import Legend
from tests.pipeline.engine.autoscaler import Fleet
from tests.pipeline.engine.fault_world import World
from tests.pipeline.small_plans import run_config

TILING = TilingConfig(tile_px=32, overlap_px=8, block_px=64)
LEGEND = Legend.from_yaml()
SHAPES = (((1, 1),), ((1, 2),), ((1, 6),), ((2, 2),), ((3, 3),), ((5, 2),), ((4, 4),), ((2, 3), (3, 1)))
"""Zones of so many by so many blocks."""
DEADLINE_S = 600.0


@dataclass(frozen=True)
class Outcome:
    """What one schedule came to."""

    ended: str
    """``complete``, ``partial`` or ``cluster lost``."""
    happened: dict[str, int]


@functools.cache
def plan_and_sizes(shape: int, clipped: bool) -> tuple[MapPlan, dict[Key, Sizes]]:
    """A plan of small blocks; clipped to a diagonal strip, so that some blocks need neighbours that others lack."""
    zones = []
    for number, (rows, cols) in enumerate(SHAPES[shape]):
        grid = ZoneGrid(32632 + number, 600_000.0, 5_100_000.0, 10.0, 64 * rows - 7, 64 * cols - 3)
        right, bottom = grid.left + 10 * grid.width, grid.top - 10 * grid.height
        strip = shapely.LineString([(grid.left, grid.top), (right, bottom)]).buffer(300)
        zones.append(ZonePlan(grid, plan_blocks(grid, TILING, strip if clipped else None), ()))
    plan = MapPlan("0" * 16, {}, (), tuple(zones), {})
    return plan, block_sizes(plan, len(LEGEND))


class Journal:
    """Records in memory."""

    def __init__(self) -> None:
        self.records: list[Any] = []

    def append(self, record: Any) -> None:
        self.records.append(record)


class Quiet(LogProgress):
    """Counts, says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.advanced = 0

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self.left = total - done

    def advance(self, amount: int = 1) -> None:
        self.advanced += amount


def play(seed: int) -> Outcome:
    """Plays one schedule and looks at everything that must hold.

    Raises:
        AssertionError: Something does not hold.
    """
    draw = random.Random(-seed - 1)
    plan, sizes = plan_and_sizes(draw.randrange(len(SHAPES)), draw.random() < 0.3)
    blocks: dict[Key, Block] = {(z, b.index): b for z, zone in enumerate(plan.zones) for b in zone.blocks}
    finished = frozenset(key for key in blocks if draw.random() < draw.choice((0.0, 0.0, 0.5, 0.9)))
    compute = {
        "attempts": draw.choice((1, 2, 3, 5)),
        "prefetch": draw.choice((0, 1, 2, 6)),
        "answer_within_s": DEADLINE_S,
    }
    config = run_config(compute=compute, tiling=TILING.model_dump())
    most, readers = draw.choice((1, 1, 2, 4)), draw.choice((1, 2, 5))
    fleet = draw_fleet(draw) if draw.random() < 0.3 else None
    actors = CrewSize(draw.choice((1, most, most)), most, follows=fleet is not None and draw.random() < 0.3)
    machines, faults = draw.choice((1, 2, 4)), draw.random() < 0.97
    store_bytes = draw_store(draw, plan, sizes, finished)
    world = World(seed, blocks, sizes, machines=machines, faults=faults, store_bytes=store_bytes, fleet=fleet)
    journal, progress = Journal(), Quiet()
    with _sizes_known(sizes):
        engine = Engine(plan, config, LEGEND, actors, readers, world, journal, progress, finished)  # type: ignore[arg-type]
    lost_cluster = None
    try:
        engine.run()
    except ClusterError as error:
        lost_cluster = str(error)
    ended = Ended(world, engine, journal, progress, blocks, finished, config.compute.attempts, actors)
    ended.look(lost_cluster)
    failed = any(isinstance(record, BlockFailed) or record.incomplete for record in journal.records)
    return Outcome("cluster lost" if lost_cluster else "partial" if failed else "complete", dict(world.happened))


def draw_fleet(draw: random.Random) -> Fleet:
    """An autoscaling cluster: it may have no machine for an actor at first, and lose those that it gets."""
    return Fleet(draw.choice((1, 2)), draw.choice((1, 2, 5)), draw.choice((60.0, 600.0)), draw.choice((0.0, 0.02, 0.1)))


def draw_store(draw: random.Random, plan: MapPlan, sizes: dict[Key, Sizes], finished: frozenset[Key]) -> int:
    """Room in the object stores: ample, the least with which the plan can be mapped, or in between."""
    need = store_need(open_work(plan, finished), sizes)
    return draw.choice((2**60, need.least, draw.randint(need.least, max(need.least, need.wanted(2)))))


class _sizes_known:
    """Sizes of a plan are computed once for all seeds."""

    def __init__(self, sizes: dict[Key, Sizes]) -> None:
        self._sizes = sizes

    def __enter__(self) -> None:
        self._real = driver.block_sizes
        driver.block_sizes = lambda *_: self._sizes

    def __exit__(self, *_: object) -> None:
        driver.block_sizes = self._real


@dataclass(frozen=True)
class Ended:
    """A run that is over, and the world that it ran in."""

    world: World
    engine: Engine
    journal: Journal
    progress: Quiet
    blocks: dict[Key, Block]
    finished_before: frozenset[Key]
    attempts: int
    size: CrewSize

    def look(self, lost_cluster: str | None) -> None:
        """All that must hold."""
        records = {}
        for record in self.journal.records:
            key = (record.epsg - 32632, record.index)
            assert key not in records, f"block {key} ended twice"
            records[key] = record
        wanted = set(self.blocks) - self.finished_before
        assert records.keys() <= wanted, "a block that nobody wanted was written"
        assert self.progress.advanced == len(records)
        if lost_cluster is None:
            assert records.keys() == wanted, f"blocks without an end: {sorted(wanted - records.keys())}"
        else:
            self._cluster_was_lost(lost_cluster)
        for key, record in records.items():
            if isinstance(record, BlockFinished):
                self._holds_all_that_it_says(key, record)
            else:
                assert record.error
                assert record.attempts <= self.attempts
                assert self._had_reason_to_give_up(key), f"block {key} was given up without a reason: {record.error}"
        self._little_was_repeated()
        assert self.world.most_actors <= self.actors
        self._memory_was_bounded()
        if lost_cluster is None:
            left = [work.title for work in self.engine.blocks.work.values() if work.layers or any(work.pieces.values())]
            assert not left, f"still held after the end: {left}"

    def _holds_all_that_it_says(self, key: Key, record: BlockFinished) -> None:
        zone = key[0]
        sources = self.world.store[key].sources
        filled = {need for need in self.blocks[key].needs if (zone, need) not in self.world.empty}
        missing = filled - sources
        assert sources <= filled
        told = {int(p.split()[5]) for p in record.problems if p.startswith("the tiles of neighbouring block")}
        assert missing <= told, f"block {key} has a hole that nobody knows of: {sorted(missing - told)}"
        for need in told:
            assert self._had_reason_to_give_up((zone, need)), f"source {need} of block {key} was left out"
        unread = any((zone, need) in self.world.unread for need in self.blocks[key].needs if need not in told)
        if unread or told:
            assert record.incomplete, f"block {key} is called complete"
        if not told and not any((zone, need) in self.world.unread for need in self.blocks[key].needs):
            assert not record.incomplete

    def _had_reason_to_give_up(self, key: Key) -> bool:
        failures = sum(counter[key] for counter in self.world.failures.values())
        return failures >= self.attempts or self.world.losses[key] > MAX_LOSSES or self._guessing

    @property
    def actors(self) -> int:
        """The most that there may be."""
        fleet = self.world.fleet
        return self.size.grown(99 * len(self.world.machines) if fleet is None else fleet.slots * 20).most

    @property
    def _guessing(self) -> bool:
        return self.world.happened["nobody knows what is lost"] > 0

    def _cluster_was_lost(self, message: str) -> None:
        happened = self.world.happened
        if "died one after the other" in message:
            assert len(self.world.actors) > self.attempts * min(self.size.most, len(self.engine.blocks.work))
        elif "could start" in message:
            taken = happened["capacity goes"] > 3
            assert happened["load hangs"] or happened["machine is out of reach"] or taken
        else:
            assert "nothing has answered" in message, message
            assert "block" in message, message
            # One call that hangs is ended by its own deadline; it takes more to stop a run.
            silent = sum(happened[kind] for kind in happened if re.search("hang|late|dies|goes", kind))
            assert silent >= 2 or happened["machine is out of reach"]

    def _little_was_repeated(self) -> None:
        """Each call beyond the first has its own cause: a failure of its kind, or data that went away."""
        world = self.world
        for key in self.blocks:
            reads, classified, finished = (world.calls[kind][key] for kind in ("read", "classify", "finish"))
            assert finished <= 1 + world.failures["finish"][key] + self._losses_around(key)
            if self._guessing:
                continue
            # A reading may have been for a neighbour that was given up meanwhile.
            in_vain = sum(taker.ending is Ending.FAILED for taker in self._takers(key))
            aside = sum(taker.times_aside for taker in self._takers(key))
            cause = world.failures["read"][key] + world.losses[key] + in_vain + aside
            assert reads <= 1 + cause, f"block {key} was read {reads} times"
            again = world.failures["classify"][key] + world.losses[key] + aside
            assert classified <= 1 + again, f"block {key} was classified {classified} times"
        for counter in world.failures.values():
            assert all(count <= self.attempts + MAX_LOSSES + 2 * self.actors + 99 for count in counter.values())

    def _takers(self, key: Key) -> list[Work]:
        work = self.engine.blocks.work
        return [work[key[0], t] for t in work[key].targets if (key[0], t) in work] if key in work else []

    def _losses_around(self, key: Key) -> int:
        if self._guessing:
            return 10**6
        return sum(self.world.losses[key[0], need] for need in self.blocks[key].needs)

    def _memory_was_bounded(self) -> None:
        budget = self.engine.room.budget_bytes
        assert budget <= max(self.world.store_bytes, self.engine.need.least)
        assert self.engine.report.held_peak_bytes <= budget
        assert self.world.peak_bytes <= budget, f"{self.world.peak_bytes} bytes were held, there is room for {budget}"


def play_many(seeds: range) -> tuple[Counter[str], Counter[str], list[tuple[int, str]]]:
    """Plays seeds; ends, faults that happened, and the seeds that failed with what they said."""
    logging.disable(logging.CRITICAL)
    ends: Counter[str] = Counter()
    happened: Counter[str] = Counter()
    failed = []
    for seed in seeds:
        try:
            outcome = play(seed)
        except Exception:
            failed.append((seed, traceback.format_exc(limit=-3)))
            continue
        ends[outcome.ended] += 1
        happened.update(outcome.happened)
    return ends, happened, failed


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulated fault schedules against the driver.")
    parser.add_argument("seed", nargs="?", type=int, help="play this one, and show its error")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.seed is not None:
        logging.basicConfig(level=logging.INFO)
        print(play(arguments.seed))
        return 0
    begun = time.monotonic()
    step = 500
    parts = [
        range(first, min(first + step, arguments.first + arguments.count))
        for first in range(arguments.first, arguments.first + arguments.count, step)
    ]
    ends: Counter[str] = Counter()
    happened: Counter[str] = Counter()
    failed: list[tuple[int, str]] = []
    with ProcessPoolExecutor(arguments.processes) as pool:
        for part_ends, part_happened, part_failed in pool.map(play_many, parts):
            ends.update(part_ends)
            happened.update(part_happened)
            failed += part_failed
    for kind, count in sorted(happened.items()):
        print(f"{count:>9,}  {kind}")
    for seed, text in failed[:5]:
        print(f"\nseed {seed} failed:\n{text}")
    print(
        f"{sum(ends.values()) + len(failed):,} schedules in {time.monotonic() - begun:.0f} s: "
        + ", ".join(f"{count:,} {end}" for end, count in sorted(ends.items()))
        + f"; failed: {len(failed)}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
