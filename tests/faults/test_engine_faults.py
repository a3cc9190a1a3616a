"""The driver loop on a real Ray in which processes and objects are lost at the worst moments."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ObjectLostError

from pipeline.engine.cluster import Cluster
from pipeline.engine.crew import CrewSize
from pipeline.engine.driver import Engine, EngineReport
from pipeline.engine.io_workers import IoWorker
from pipeline.engine.ray_executor import RayExecutor
from pipeline.engine.tasks import BlockReport, ReadLayers
from pipeline.errors import ClusterError
from pipeline.machine.progress import LogProgress
from pipeline.mapstore.store import RunStore
from pipeline.planning.prepare import Prepared, prepare
from pipeline.predict.classifier import BlockClassifier
from pipeline.records.plan import Block
from pipeline.runs.map_region import zone_contexts
from pipeline.settings.run_file import RunConfig
from tests.conftest import tiny_config

pytestmark = pytest.mark.ray

POISON = 1
"""Index of the block that kills whoever touches it."""


class PoisonedClassifier(BlockClassifier):
    """Dies on one block, as a crash in native code would make it."""

    def classify(self, zone: int, block: Block, targets: tuple[int, ...], reflectance: Any) -> Any:
        if block.index == POISON:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().classify(zone, block, targets, reflectance)


class Unloadable(BlockClassifier):
    """Dies while it loads the model."""

    def load(self) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0


class DiesOnce(IoWorker):
    """While it reads one block."""

    def read(self, zone: int, block: Block) -> Any:
        mark = self._contexts[zone].run_folder / f"died-{block.index}"
        if block.index == POISON and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(zone, block)


class Refuses(IoWorker):
    """To read one block."""

    def read(self, zone: int, block: Block) -> Any:
        if block.index == POISON:
            raise OSError("the disk is on fire")
        return super().read(zone, block)


class LosesOnce(IoWorker):
    """Says what Ray says when a machine went away with the pieces that it held."""

    def finish(self, zone: int, block: Block, layers: ReadLayers, *pieces: Any) -> BlockReport:
        mark = self._contexts[zone].run_folder / f"lost-{block.index}"
        if not mark.exists():
            mark.touch()
            raise ObjectLostError("0" * 56, None, "")
        return super().finish(zone, block, layers, *pieces)


@dataclass
class Ground:
    """A prepared run and its store."""

    prepared: Prepared
    store: RunStore
    cluster: Cluster

    def run(self, actor: Any = None, io: Any = None, seats: int = 1) -> EngineReport:
        with self.store.journal_writer() as journal:
            p = self.prepared
            size = (self.cluster.crew, self.cluster.readers)
            classes: Any = {"seats": seats, "actor_class": actor or BlockClassifier, "io_class": io or IoWorker}
            executor = RayExecutor(p.plan, p.config, p.legend, zone_contexts(p, self.store), size[1], **classes)
            return Engine(p.plan, p.config, p.legend, *size, executor, journal, LogProgress(), frozenset()).run()

    def landcover(self) -> Any:
        return self.store.zone(32632).read("landcover")

    def hole(self) -> Any:
        """True on the pixels of the poisoned block."""
        window = self.prepared.plan.zones[0].blocks[POISON].window
        mask = np.zeros(self.landcover().shape, bool)
        mask[window.row : window.row + window.height, window.col : window.col + window.width] = True
        return mask


@pytest.fixture
def ground(tiny_archive: Path, local_ray: Cluster, tmp_path: Path) -> Ground:
    config = tiny_config(tiny_archive, tmp_path, compute={"actors": 1, "attempts": 2})
    prepared = prepare(config)
    cluster = Cluster(CrewSize(1, 1), 1, False, "test")
    return Ground(prepared, RunStore.create(tmp_path / "state", prepared.plan, prepared.legend), cluster)


@pytest.fixture(scope="module")
def expected(tiny_archive: Path, local_ray: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("expected")
    prepared = prepare(tiny_config(tiny_archive, folder))
    clean = Ground(prepared, RunStore.create(folder / "state", prepared.plan, prepared.legend), local_ray)
    assert clean.run().finished == 4
    return clean.landcover()


@pytest.mark.long
def test_a_block_that_kills_its_actor_is_given_up_and_the_others_are_not(ground: Ground, expected: Any) -> None:
    report = ground.run(actor=PoisonedClassifier)
    assert [failure.key for failure in report.failed] == [(0, POISON)]
    assert report.finished == 3
    blocks = ground.prepared.plan.zones[0].blocks
    neighbours = [block.index for block in blocks if POISON in block.needs and block.index != POISON]
    assert neighbours
    assert report.incomplete == len(neighbours)
    landcover, hole = ground.landcover(), ground.hole()
    assert not landcover[hole].any()
    mapped = landcover != 0
    assert np.array_equal(landcover[mapped], expected[mapped])
    assert np.mean(mapped[~hole]) > 0.95  # what is missing beside the hole is the reach of its tiles
    state = ground.store.state()
    assert state.failed[32632, POISON].attempts == 2
    assert all(state.finished[32632, index].incomplete for index in neighbours)
    assert f"block {POISON}" in state.finished[32632, neighbours[0]].problems[0]


@pytest.mark.long
def test_a_block_that_kills_its_process_costs_no_block_beside_it(ground: Ground, expected: Any) -> None:
    ground.cluster = Cluster(CrewSize(2, 2), 1, False, "test")
    report = ground.run(actor=PoisonedClassifier, seats=2)
    assert [failure.key for failure in report.failed] == [(0, POISON)]
    assert report.finished == 3
    landcover = ground.landcover()
    mapped = landcover != 0
    assert np.array_equal(landcover[mapped], expected[mapped])
    assert np.mean(mapped[~ground.hole()]) > 0.95


def test_actors_that_share_a_process_make_the_same_map(ground: Ground, expected: Any) -> None:
    ground.cluster = Cluster(CrewSize(2, 2), 1, False, "test")
    report = ground.run(seats=2)
    assert (report.finished, report.failed) == (4, [])
    assert np.array_equal(ground.landcover(), expected)


@pytest.mark.long
def test_actors_that_die_while_loading_end_the_run_with_a_reason(ground: Ground) -> None:
    with pytest.raises(ClusterError, match="died one after the other"):
        ground.run(actor=Unloadable)


def test_a_killed_reader_is_read_again(ground: Ground, expected: Any) -> None:
    report = ground.run(io=DiesOnce)
    assert (report.finished, report.failed) == (4, [])
    assert np.array_equal(ground.landcover(), expected)


def test_a_block_that_cannot_be_read_is_told_with_its_own_reason(ground: Ground, expected: Any) -> None:
    report = ground.run(io=Refuses)
    assert [(failure.key, failure.reason) for failure in report.failed] == [
        ((0, POISON), "OSError: the disk is on fire")
    ]
    assert report.finished == 3
    assert not ground.landcover()[ground.hole()].any()


class OnAMachineThatGoes(IoWorker):
    """One finisher misses pieces; its neighbour, on the machine that held them, is killed a moment later."""

    def finish(self, zone: int, block: Block, layers: ReadLayers, *pieces: Any) -> BlockReport:
        folder = self._contexts[zone].run_folder
        first, lost = folder / "first", folder / "lost"
        if not first.exists():
            first.touch()
            deadline = time.monotonic() + 60
            while not lost.exists():
                assert time.monotonic() < deadline, "no two were ever finished at the same time"
                time.sleep(0.02)
            time.sleep(0.4)
            os.kill(os.getpid(), signal.SIGKILL)
        if not lost.exists():
            lost.touch()
            raise ObjectLostError("0" * 56, None, "")
        return super().finish(zone, block, layers, *pieces)


class HangsOnce(IoWorker):
    """While it reads one block."""

    def read(self, zone: int, block: Block) -> Any:
        mark = self._contexts[zone].run_folder / f"hung-{block.index}"
        if block.index == POISON and not mark.exists():
            mark.touch()
            time.sleep(600)
        return super().read(zone, block)


def test_a_machine_that_goes_while_its_neighbour_is_finished_leaves_no_hole(
    ground: Ground, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.engine.io_workers.LINE", 1)  # or all would be finished by one process, in turn
    ground.cluster = Cluster(CrewSize(1, 1), 2, False, "test")
    report = ground.run(io=OnAMachineThatGoes)
    assert (report.finished, report.failed, report.incomplete) == (4, [], 0)
    assert np.array_equal(ground.landcover(), expected)


@pytest.mark.long
def test_a_reader_that_hangs_is_ended_and_its_block_read_again(ground: Ground, expected: Any) -> None:
    ground.prepared = dataclasses.replace(ground.prepared, config=answering_within(ground.prepared.config, 12.0))
    report = ground.run(io=HangsOnce)
    assert (report.finished, report.failed) == (4, [])
    assert np.array_equal(ground.landcover(), expected)


def answering_within(config: RunConfig, seconds: float) -> RunConfig:
    return config.model_copy(update={"compute": config.compute.model_copy(update={"answer_within_s": seconds})})


def test_lost_pieces_are_computed_again(ground: Ground, expected: Any) -> None:
    report = ground.run(io=LosesOnce)
    assert (report.finished, report.failed) == (4, [])
    assert np.array_equal(ground.landcover(), expected)
