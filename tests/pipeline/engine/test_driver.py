"""Named failures of the driver loop, each found once by hand; :mod:`tests.pipeline.engine.schedules` plays the rest."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.engine.crew import CrewSize
from pipeline.engine.driver import Engine
from pipeline.engine.executor import CallFailedError, Trouble
from pipeline.engine.work import Key
from pipeline.engine.worker_memory import WorkerMemory
from pipeline.errors import ClusterError
from pipeline.machine.memory import ProcessMemory
from pipeline.mapstore.journal import BlockFailed, BlockFinished
from spex_core.errors import CheckpointError
from tests.pipeline.engine.fault_world import World
from tests.pipeline.engine.machines import Actor, Running
from tests.pipeline.engine.schedules import LEGEND, TILING, Journal, Quiet, plan_and_sizes
from tests.pipeline.small_plans import run_config

ROW_OF_SIX, FOUR_BY_FOUR, PAIR = 2, 6, 1
"""Positions in ``schedules.SHAPES``."""


class Scripted(World):
    """A world without chance in its failures: ``script`` is asked at the end of each call and may fail it."""

    def __init__(
        self, blocks: dict[Key, Any], sizes: dict[Key, Any], script: Callable[[Scripted, Running], bool]
    ) -> None:
        super().__init__(7, blocks, sizes, machines=2, faults=False)
        self.empty = set()
        self.script = script
        self.times: list[tuple[str, Key, float]] = []

    def _read_done(self, call: Running) -> None:
        if not self.script(self, call):
            super()._read_done(call)

    def _finish_done(self, call: Running, sources: frozenset[int]) -> None:
        if not self.script(self, call):
            super()._finish_done(call, sources)

    def _classified(self, actor: Actor, call: Running) -> None:
        self.times.append(("classified", call.key, self.now))
        if not self.script(self, call):
            super()._classified(actor, call)


def run(
    shape: int,
    script: Callable[[Scripted, Running], bool],
    *,
    actors: int = 1,
    finished: frozenset[Key] = frozenset(),
    **compute: float,
) -> tuple[Engine, Scripted, Journal]:
    plan, sizes = plan_and_sizes(shape, False)
    blocks = {(z, b.index): b for z, zone in enumerate(plan.zones) for b in zone.blocks}
    world, journal = Scripted(blocks, sizes, script), Journal()
    config = run_config(
        compute={"attempts": 3, "prefetch": 4, "answer_within_s": 600, **compute}, tiling=TILING.model_dump()
    )
    engine = Engine(plan, config, LEGEND, CrewSize(actors, actors), 4, world, journal, Quiet(), finished)  # type: ignore[arg-type]
    engine.run()
    return engine, world, journal


def lose_pieces_of(world: Scripted, call: Running, key: Key) -> None:
    for ref in call.given:
        if ref.key == key:
            ref.lost = True
    world._fail_later(call, Trouble.LOST, "a machine went away", next(ref for ref in call.given if ref.lost))


def test_a_finisher_that_dies_while_its_neighbour_misses_pieces_leaves_no_hole() -> None:
    """The ordinary spot case: a machine goes, with pieces of one block and the process that merges another."""
    struck: set[Key] = set()

    def script(world: Scripted, call: Running) -> bool:
        if call.kind != "finish" or call.key in struck:
            return False
        struck.add(call.key)
        if len(struck) == 1:
            lose_pieces_of(world, call, call.key)
        else:
            world._fail_later(call, Trouble.WORKER, "its machine is gone")
        return True

    _, world, journal = run(PAIR, script)
    assert len(struck) == 2
    assert all(isinstance(record, BlockFinished) and not record.incomplete for record in journal.records)
    needs = {(0, block.index): set(block.needs) for block in plan_and_sizes(PAIR, False)[0].zones[0].blocks}
    assert {key: written.sources for key, written in world.store.items()} == needs


def test_a_loss_that_several_blocks_notice_is_made_good_once() -> None:
    struck: set[Key] = set()

    def script(world: Scripted, call: Running) -> bool:
        if call.kind != "finish" or call.key in struck or len(struck) == 9:
            return False
        struck.add(call.key)
        lose_pieces_of(world, call, call.given[1].key)
        return True

    _, world, _ = run(FOUR_BY_FOUR, script)
    lost = sum(world.losses.values())
    assert struck
    assert sum(world.calls["read"].values()) <= 16 + len(struck)
    assert all(count <= 1 + len(struck) for count in world.calls["read"].values()), lost
    assert all(written.sources for written in world.store.values())


def test_a_block_behind_the_one_that_kills_its_actor_keeps_its_pixels() -> None:
    def script(world: Scripted, call: Running) -> bool:
        if call.kind == "classify" and call.key == (0, 2):
            world._kill_actor(world.actors[-1], "killed by a block")
            return True
        return False

    _, world, journal = run(ROW_OF_SIX, script)
    failed = [record for record in journal.records if isinstance(record, BlockFailed)]
    assert [(record.index, record.attempts) for record in failed] == [(2, 3)]
    assert world.calls["read"] == Counter({(0, index): 1 for index in range(6)})


def test_a_lone_actor_may_die_long_after_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[float] = []

    def script(world: Scripted, call: Running) -> bool:
        if call.kind == "classify" and len(world.times) == 5 and not killed:
            killed.append(world.now)
            world._kill_actor(world.actors[-1], "the machine was taken away")
            return True
        return False

    monkeypatch.setattr(Scripted, "hire", slow_hire)
    _, _, journal = run(ROW_OF_SIX, script, machines_within_s=60.0)
    assert killed
    assert killed[0] > 60
    assert len(journal.records) == 6
    assert all(isinstance(record, BlockFinished) for record in journal.records)


def slow_hire(self: Scripted) -> Any:
    """The first actor takes most of the patience to load; so does the second."""
    handle, reference = World.hire(self)
    self.events.clear()
    self._later(50, lambda: self._loaded(handle))
    return handle, reference


def test_a_cluster_without_a_place_for_an_actor_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scripted, "_loaded", lambda self, actor: None)
    with pytest.raises(ClusterError, match="no model actor could start within 30 min"):
        run(PAIR, lambda *_: False)


def test_a_model_that_cannot_be_loaded_ends_the_run_with_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Scripted, actor: Actor) -> None:
        actor.load.failure = CallFailedError(Trouble.OWN, CheckpointError("no weights in out/model"), "no weights")
        actor.load.ready = True

    monkeypatch.setattr(Scripted, "_loaded", refuse)
    with pytest.raises(CheckpointError, match="no weights in out/model"):
        run(PAIR, lambda *_: False)


def test_a_call_that_hangs_is_ended_and_made_again() -> None:
    hung: list[Key] = []

    def script(world: Scripted, call: Running) -> bool:
        if call.kind == "read" and not hung:
            hung.append(call.key)
            return True  # no word of it, ever
        return False

    _, world, journal = run(ROW_OF_SIX, script)
    assert world.now > 600
    assert world.calls["read"][hung[0]] == 2
    assert all(isinstance(record, BlockFinished) for record in journal.records)


def test_a_cluster_that_falls_silent_ends_the_run_and_says_what_was_under_way() -> None:
    def script(world: Scripted, call: Running) -> bool:
        return bool(world.store)  # after the first block nothing answers

    with pytest.raises(ClusterError, match=r"nothing has answered for .* waiting for: .*block \d of zone 1"):
        run(ROW_OF_SIX, script)


def test_blocks_that_kill_one_actor_after_another_do_not_end_the_run() -> None:
    """Deaths that a given-up block explains are not held against the cluster."""

    def script(world: Scripted, call: Running) -> bool:
        if call.kind == "classify" and call.key[1] < 4:
            world._kill_actor(world.actors[-1], "killed by a block")
            return True
        return False

    _, _, journal = run(ROW_OF_SIX, script)
    assert sorted(record.index for record in journal.records if isinstance(record, BlockFailed)) == [0, 1, 2, 3]


def test_an_undisturbed_run_does_everything_once() -> None:
    engine, world, _ = run(FOUR_BY_FOUR, lambda *_: False, actors=2)
    for kind in ("read", "classify", "finish"):
        assert set(world.calls[kind].values()) == {1}
        assert len(world.calls[kind]) == 16
    assert world.peak_bytes <= engine.room.budget_bytes


def test_peak_memory_is_of_processes_that_lived_together() -> None:
    memory = WorkerMemory()
    actor = object()
    memory.note(ProcessMemory("host", 1, 1500.0), lasting=actor, at_once=1)
    for pid in range(100, 200):  # readers are replaced after some hundred blocks
        memory.note(ProcessMemory("host", pid, 700.0), lasting=None, at_once=2)
    assert memory.peak_mb == 1500.0 + 2 * 700.0
    memory.forget_lasting(actor)
    memory.note(ProcessMemory("host", 2, 1600.0), lasting=object(), at_once=1)
    assert memory.peak_mb == 1600.0 + 2 * 700.0


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
