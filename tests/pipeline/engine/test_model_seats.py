"""Model actors that share a process, without a Ray: who sits where, and what becomes of neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.engine.crew import CrewSize
from pipeline.engine.model_seats import Seats, seats_per_process
from pipeline.engine.worker_memory import WorkerMemory
from pipeline.machine.memory import ProcessMemory
from pipeline.settings.run_file import RunConfig

ONE = {"max_restarts": 0, "num_cpus": 0.5}
"""Of Ray, for a process of one seat."""


class Processes:
    """Stands for Ray and for the actor class: counts processes, remembers their options and who was ended."""

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.ended: list[int] = []
        self._next: dict[str, Any] = {}

    def options(self, **options: Any) -> Processes:
        self._next = options
        return self

    def remote(self, settings: Any) -> int:
        assert settings == "settings"
        self.started.append(self._next)
        self._next = {}
        return len(self.started)

    def kill(self, handle: int) -> None:
        self.ended.append(handle)


def config(tmp_path: Path, **sections: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "seats",
            "region": str(tmp_path / "region.geojson"),
            "start": "2026-06-01",
            "end": "2026-06-30",
            "output": str(tmp_path / "maps"),
            "source": {"provider": "earth-search"},
            **sections,
        }
    )


@pytest.mark.parametrize(("actors", "seats"), [(1, 1), (2, 2), (4, 4), (5, 3), (8, 4), (9, 3), (64, 4)])
def test_actors_of_one_machine_share_processes_evenly(tmp_path: Path, actors: int, seats: int) -> None:
    assert seats_per_process(config(tmp_path), CrewSize(actors, actors), local=True) == seats


def test_whatever_a_death_could_cost_more_than_a_try_has_a_process_of_its_own(tmp_path: Path) -> None:
    two, rising = CrewSize(2, 2), CrewSize(1, 2)
    assert seats_per_process(config(tmp_path), two, local=False) == 1
    assert seats_per_process(config(tmp_path), rising, local=True) == 1
    for sections in (
        {"compute": {"attempts": 1}},
        {"compute": {"gpus_per_actor": 0.5}},
        {"model": {"checkpoint": "index-rules"}},
        {"model": {"compile": "on"}},
        {"model": {"checkpoint": str(tmp_path / "none")}},
    ):
        assert seats_per_process(config(tmp_path, **sections), two, local=True) == 1, sections


def test_a_process_is_filled_before_another_one_starts() -> None:
    ray = Processes()
    seats = Seats(ray, ray, "settings", ONE, 2)
    taken = [seats.take() for _ in range(3)]
    assert [seats.handle(seat) for seat in taken] == [1, 1, 2]
    assert ray.started == [{"max_restarts": 0, "num_cpus": 1.0, "max_concurrency": 2}] * 2


def test_after_a_death_everyone_has_a_process_of_his_own() -> None:
    ray = Processes()
    seats = Seats(ray, ray, "settings", ONE, 3)
    guilty, working, idle = (seats.take() for _ in range(3))
    seats.end(guilty)
    seats.end(working)  # its call has failed as well
    assert ray.ended == [1]
    again = [seats.take(), seats.take()]
    handles = [seats.handle(seat) for seat in (*again, idle)]
    assert handles == [2, 3, 4], "who had nothing to do is moved when it gets something"
    assert ray.started[1:] == [ONE] * 3
    assert seats.handle(idle) == 4


def test_memory_of_a_shared_process_counts_once() -> None:
    memory, first, second = WorkerMemory(), object(), object()
    memory.note(ProcessMemory("host", 1, 900.0), lasting=first, at_once=1)
    memory.note(ProcessMemory("host", 1, 1000.0), lasting=second, at_once=1)
    memory.note(ProcessMemory("host", 2, 300.0), lasting=None, at_once=1)
    assert memory.peak_mb == 1300.0


def test_two_threads_of_one_process_give_the_bytes_of_one(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from pipeline.predict.classifier import load_classifier
    from spex_core.legend import Legend

    run = config(tmp_path)
    classifier = load_classifier(run.model, Legend.from_yaml(run.legend))
    draw = np.random.default_rng(1)
    tiles = [draw.uniform(0.02, 0.4, (1, 10, 96, 96)).astype(np.float32) for _ in range(6)]
    alone = [classifier.scores(tile).tobytes() for tile in tiles]
    with ThreadPoolExecutor(2) as pool:
        assert [found.tobytes() for found in pool.map(classifier.scores, tiles)] == alone
