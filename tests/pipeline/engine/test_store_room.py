"""Bytes on their way stay within what the object stores have room for, and the run moves on all the same."""

from __future__ import annotations

import logging

import pytest

from pipeline.engine.budget import StoreNeed, store_need
from pipeline.engine.cluster import check_store, connected, local_store_mb, store_room
from pipeline.engine.crew import CrewSize
from pipeline.engine.driver import Engine
from pipeline.engine.executor import Capacity
from pipeline.engine.work import open_work
from pipeline.errors import ConfigError
from pipeline.mapstore.journal import BlockFinished
from pipeline.settings.run_file import ComputeConfig
from tests.pipeline.engine.fault_world import World
from tests.pipeline.engine.schedules import LEGEND, TILING, Journal, Quiet, plan_and_sizes
from tests.pipeline.small_plans import run_config

MIB = 2**20
FOUR_BY_FOUR, FIVE_BY_TWO = 6, 5
"""Positions in ``schedules.SHAPES``."""


def need_of(shape: int) -> StoreNeed:
    plan, sizes = plan_and_sizes(shape, False)
    return store_need(open_work(plan, frozenset()), sizes)


def mapped_within(store_bytes: int, shape: int = FOUR_BY_FOUR, actors: int = 2) -> World:
    """An undisturbed run; every block is written, whole, and never is more held than there is room for."""
    logging.disable(logging.CRITICAL)
    plan, sizes = plan_and_sizes(shape, False)
    blocks = {(z, b.index): b for z, zone in enumerate(plan.zones) for b in zone.blocks}
    world = World(7, blocks, sizes, machines=2, faults=False, store_bytes=store_bytes)
    world.empty = set()
    config, journal = run_config(tiling=TILING.model_dump()), Journal()
    Engine(plan, config, LEGEND, CrewSize(actors, actors), 2, world, journal, Quiet(), frozenset()).run()  # type: ignore[arg-type]
    logging.disable(logging.NOTSET)
    assert len(journal.records) == len(blocks)
    assert all(isinstance(record, BlockFinished) and not record.incomplete for record in journal.records)
    assert {key: written.sources for key, written in world.store.items()} == {
        key: frozenset(block.needs) for key, block in blocks.items()
    }
    assert world.peak_bytes <= store_bytes
    return world


def test_with_what_is_wanted_nothing_is_computed_twice() -> None:
    world = mapped_within(need_of(FOUR_BY_FOUR).wanted(1))
    assert set(world.calls["read"].values()) == {1}
    assert set(world.calls["classify"].values()) == {1}


@pytest.mark.parametrize("shape", [FOUR_BY_FOUR, FIVE_BY_TWO])
@pytest.mark.parametrize("actors", [1, 4])
def test_with_the_least_everything_is_mapped_and_a_block_computed_at_most_once_per_neighbour(
    shape: int, actors: int
) -> None:
    need = need_of(shape)
    assert need.least < need.wanted(1)
    world = mapped_within(need.least, shape, actors)
    assert max(world.calls["read"].values()) <= 9
    assert set(world.calls["finish"].values()) == {1}


def test_a_little_less_than_wanted_costs_little() -> None:
    need = need_of(FOUR_BY_FOUR)
    world = mapped_within((need.least + 3 * need.wanted(1)) // 4)
    assert sum(world.calls["read"].values()) <= 2 * 16


def test_what_has_room_is_told_where_it_is_less_than_wanted() -> None:
    plan, sizes = plan_and_sizes(FOUR_BY_FOUR, False)
    config = run_config(tiling=TILING.model_dump(), compute={"prefetch": 2})
    need, texts = need_of(FOUR_BY_FOUR), []
    for store_bytes in (need.wanted(3), need.wanted(2), need.least):
        world = World(7, {}, sizes, machines=1, faults=False, store_bytes=store_bytes)
        engine = Engine(plan, config, LEGEND, CrewSize(1, 1), 1, world, Journal(), Quiet(), frozenset())  # type: ignore[arg-type]
        texts.append(engine.room.told(3))
    assert texts[0] == ""
    assert "fewer blocks are read ahead" in texts[1]
    assert "computed more than once" in texts[2]
    assert all("compute.object_store_mb" in text for text in texts[1:])


def test_stores_of_nodes_without_workers_do_not_count_and_several_nodes_hold_copies() -> None:
    head, node = {"object_store_memory": 800.0}, {"CPU": 2.0, "object_store_memory": 1000.0}
    assert store_room([head]) == 0
    assert store_room([head, node]) == 750
    assert store_room([node, node]) == 750
    assert store_room([node, node, node, head]) == 1125


NEED = StoreNeed(front=900 * MIB, largest=60 * MIB, least=120 * MIB)


def test_a_local_store_follows_the_plan_and_the_memory_unless_the_run_file_says_how_much() -> None:
    compute = ComputeConfig(actors=2, prefetch=2)
    assert local_store_mb(compute, None, 1) == 1024
    assert local_store_mb(compute, NEED, 64_000 * MIB) == (900 + 6 * 60) / 0.75
    assert local_store_mb(compute, NEED, 4_000 * MIB) == 1200
    assert local_store_mb(compute, NEED, 100 * MIB) == 1024
    assert local_store_mb(ComputeConfig(object_store_mb=160), NEED, 100 * MIB) == 160


def test_a_store_without_room_for_a_block_is_refused_before_anything_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # other tests may have left one running
    small = ComputeConfig(object_store_mb=128)
    with pytest.raises(ConfigError, match=r"compute.object_store_mb is 128 MB, but one block .* take 160: set it"):
        local_store_mb(small, NEED, 64_000 * MIB)
    with (
        pytest.raises(ConfigError, match=r"set it to so much or more, or make tiling.block_px smaller"),
        connected(small, NEED),
    ):
        pass
    with pytest.raises(ConfigError, match=r"this machine can give the object store 1024 MB"):
        local_store_mb(ComputeConfig(), StoreNeed(0, 0, 2_000 * MIB), MIB)


def test_a_cluster_without_room_for_a_block_is_refused_once_it_has_machines() -> None:
    check_store(NEED, Capacity(0, 0))
    check_store(NEED, Capacity(1, NEED.least))
    with pytest.raises(ConfigError, match="--object-store-memory"):
        check_store(NEED, Capacity(1, NEED.least - 1))
