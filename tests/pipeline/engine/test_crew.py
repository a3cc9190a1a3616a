"""Actors are hired and let go with the queue, on machines that come and go; every block is mapped once, whole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline.engine.cluster import crew_size
from pipeline.engine.crew import IDLE_S, CrewSize
from pipeline.engine.driver import Engine
from pipeline.errors import ClusterError, ConfigError
from pipeline.mapstore.journal import BlockFinished
from pipeline.settings.run_file import ComputeConfig
from tests.pipeline.engine.autoscaler import Fleet, settle
from tests.pipeline.engine.fault_world import World
from tests.pipeline.engine.machines import Machine
from tests.pipeline.engine.schedules import LEGEND, TILING, Journal, Quiet, plan_and_sizes
from tests.pipeline.small_plans import run_config

FOUR_BY_FOUR, ROW_OF_SIX = 6, 2
"""Positions in ``schedules.SHAPES``."""
NODE, GPU_NODE, HEAD = {"CPU": 4.0}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 0.0}


class Telling(Quiet):
    """Keeps what people are told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def say(self, text: str) -> None:
        self.told.append(text)


class Told:
    """A run that is over: every block is written, once and whole."""

    def __init__(
        self,
        size: CrewSize,
        shape: int = FOUR_BY_FOUR,
        fleet: Fleet | None = None,
        prepare: Callable[[World], None] = lambda world: None,
        **compute: float,
    ) -> None:
        plan, sizes = plan_and_sizes(shape, False)
        blocks = {(z, b.index): b for z, zone in enumerate(plan.zones) for b in zone.blocks}
        self.world = World(7, blocks, sizes, machines=1, faults=False, fleet=fleet)
        self.world.empty = set()
        prepare(self.world)
        config = run_config(compute=compute, tiling=TILING.model_dump())
        journal, progress = Journal(), Telling()
        self.told = progress.told
        self.engine = Engine(plan, config, LEGEND, size, size.most, self.world, journal, progress, frozenset())  # type: ignore[arg-type]
        self.engine.run()
        assert len(journal.records) == len(blocks)
        assert all(isinstance(record, BlockFinished) and not record.incomplete for record in journal.records)
        needs = {key: frozenset(block.needs) for key, block in blocks.items()}
        assert {key: written.sources for key, written in self.world.store.items()} == needs


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_a_crew_grows_while_blocks_wait_and_not_beyond_its_limit() -> None:
    assert Told(CrewSize(1, 1)).world.most_actors == 1
    assert 1 < Told(CrewSize(1, 3)).world.most_actors <= 3
    assert Told(CrewSize(4, 4)).world.most_actors == 4


def test_an_actor_that_nothing_waits_for_is_let_go_and_the_last_ones_stay() -> None:
    times: list[float] = []

    def reading_slows_down(world: World) -> None:
        read_done = world._read_done

        def slow(call: Any) -> None:
            late = 3 * IDLE_S if call.key[1] >= 9 else 0.0
            World._later(world, late, lambda: read_done(call))

        world._read_done = slow  # type: ignore[method-assign]
        kill = world.kill

        def ended(actor: Any) -> None:
            times.append(world.now)
            kill(actor)

        world.kill = ended  # type: ignore[method-assign]

    run = Told(CrewSize(1, 4), prepare=reading_slows_down)
    assert run.world.most_actors > 1
    assert times[0] < run.world.now - IDLE_S, "let go in mid-run"
    assert times[-1] == run.world.now, "the last one at the end"
    times.clear()
    kept = Told(CrewSize(2, 2), prepare=reading_slows_down)
    assert len(kept.world.actors) == 2
    assert times == [kept.world.now] * 2, "a fixed number stays"


def test_a_cluster_without_a_machine_for_an_actor_is_asked_and_people_are_told() -> None:
    run = Told(CrewSize(1, 4), fleet=Fleet(slots=1, most=4, boots_within_s=600.0))
    assert run.world.most_actors == 4, "blocks wait: all are asked for at once"
    assert run.world.happened["machine joins"] >= 1
    assert 0 not in run.world.worked_on
    waiting = [text for text in run.told if text.startswith("waiting for machines: ")]
    assert waiting
    assert "(compute.machines_within_s)" in waiting[0]
    assert len(waiting) <= 3


def test_a_wait_for_machines_ends_after_the_time_that_the_run_file_allows() -> None:
    with pytest.raises(ClusterError, match=r"no model actor could start within 2 min 00 s .compute.machines_within_s"):
        Told(CrewSize(1, 4), fleet=Fleet(slots=1, most=0, boots_within_s=600.0), machines_within_s=120.0)


def test_a_machine_that_joins_in_mid_run_is_used_where_the_crew_follows() -> None:
    def joins(world: World) -> None:
        world.machines[0].slots = 1

        def join() -> None:
            world.machines.append(Machine(1, slots=2))
            settle(world)

        world._later(45.0, join)

    run = Told(CrewSize(1, 1, follows=True), prepare=joins)
    assert run.world.most_actors == 3
    assert min(run.world.worked_on[0], run.world.worked_on[1]) > 1
    assert run.engine._readers == 3, "readers may follow"
    assert Told(CrewSize(1, 1), prepare=joins).world.most_actors == 1


@pytest.mark.parametrize(
    ("compute", "nodes", "size"),
    [
        ({}, [NODE, NODE], CrewSize(8, 8, follows=True)),
        ({"actors": 3}, [NODE], CrewSize(3, 3)),
        ({"max_actors": 6}, [], CrewSize(1, 6)),
        ({"min_actors": 2, "max_actors": 6}, [NODE], CrewSize(2, 6)),
        ({"min_actors": 2}, [NODE], CrewSize(2, 4, follows=True)),
        ({"max_actors": 6, "gpus_per_actor": 1}, [HEAD], CrewSize(1, 6)),
        ({"actors": 6, "gpus_per_actor": 1}, [HEAD], CrewSize(6, 6)),
        ({"gpus_per_actor": 0.5}, [HEAD, GPU_NODE], CrewSize(2, 2, follows=True)),
    ],
)
def test_the_run_file_and_the_machines_decide_how_many(
    compute: dict[str, Any], nodes: list[dict[str, float]], size: CrewSize
) -> None:
    assert crew_size(ComputeConfig(**compute), nodes, local=False) == size


def test_a_local_ray_hires_no_more_than_the_machine_carries() -> None:
    assert crew_size(ComputeConfig(max_actors=9), [NODE], local=True) == CrewSize(1, 4)
    assert crew_size(ComputeConfig(actors=9), [NODE], local=True) == CrewSize(9, 9)
    assert crew_size(ComputeConfig(actors=9, gpus_per_actor=0.5), [GPU_NODE], local=True) == CrewSize(2, 2)
    for compute in ({"actors": 1}, {"max_actors": 1}, {}):
        with pytest.raises(ConfigError, match="0 GPUs"):
            crew_size(ComputeConfig(gpus_per_actor=1, **compute), [HEAD], local=True)


def test_numbers_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="actors is a fixed number"):
        ComputeConfig(actors=2, max_actors=4)
    with pytest.raises(ValueError, match="min_actors 5 must be at most max_actors 4"):
        ComputeConfig(min_actors=5, max_actors=4)
