"""What the driver decides without Ray: which blocks to compute, in which order, and how errors are told."""

from __future__ import annotations

import pytest

from pipeline.engine.cluster import actor_resources, chosen_gpu, default_actors, worker_environment
from pipeline.engine.ray_errors import one_line
from pipeline.engine.work import block_order, open_work
from pipeline.errors import ConfigError, ReadError
from pipeline.planning.blocks import plan_blocks
from pipeline.records.plan import MapPlan, ZoneGrid, ZonePlan
from pipeline.settings.run_file import ComputeConfig, TilingConfig


def plan_of(*shapes: tuple[int, int]) -> MapPlan:
    tiling = TilingConfig(tile_px=32, overlap_px=8, block_px=64)
    grids = [ZoneGrid(32632 + i, 0.0, 0.0, 10.0, height, width) for i, (height, width) in enumerate(shapes)]
    zones = tuple(ZonePlan(grid, plan_blocks(grid, tiling, None), ()) for grid in grids)
    return MapPlan("0" * 16, {}, (), zones, {})


def test_a_fresh_run_wants_every_block() -> None:
    plan = plan_of((192, 192), (64, 64))
    work = open_work(plan, frozenset())
    assert len(work) == 10
    assert all(entry.wanted for entry in work.values())


def test_a_finished_plan_leaves_nothing_to_do() -> None:
    plan = plan_of((128, 128))
    assert open_work(plan, frozenset((0, index) for index in range(4))) == {}


def test_finished_neighbours_are_computed_again_only_where_they_are_needed() -> None:
    plan = plan_of((64, 64 * 6))
    finished = frozenset((0, index) for index in range(5))
    work = open_work(plan, finished)
    assert {key[1] for key, entry in work.items() if entry.wanted} == {5}
    assert {key[1] for key, entry in work.items() if not entry.wanted} == set(plan.zones[0].blocks[5].needs) - {5}


def test_targets_are_the_blocks_that_need_a_block() -> None:
    plan = plan_of((192, 192))
    for (_, index), entry in open_work(plan, frozenset()).items():
        assert entry.targets == tuple(b.index for b in plan.zones[0].blocks if index in b.needs)
        assert index in entry.targets


@pytest.mark.parametrize(("height", "width"), [(64 * 2, 64 * 5), (64 * 5, 64 * 2)])
def test_blocks_are_taken_along_the_shorter_side(height: int, width: int) -> None:
    plan = plan_of((height, width))
    blocks = plan.zones[0].blocks
    order = [blocks[index].window for _, index in block_order(plan)]
    first = [window.col if width > height else window.row for window in order]
    assert first == sorted(first)
    assert len({(window.row, window.col) for window in order}) == 10


def test_an_error_is_told_in_one_line_without_the_remote_traceback() -> None:
    error = RuntimeError("\x1b[36mray::read_block()\x1b[39m\n  File x\n  File y\nReadError: B04 is gone")
    error.cause = ReadError("B04 is gone")  # type: ignore[attr-defined]
    assert one_line(error) == "ReadError: B04 is gone"


def test_actors_follow_cores_threads_and_gpus() -> None:
    eight = {"CPU": 8.0}
    assert default_actors(ComputeConfig(), [eight]) == 8
    assert default_actors(ComputeConfig(), [eight, {"object_store_memory": 1e9}, {"CPU": 2.0}]) == 10
    assert default_actors(ComputeConfig(threads_per_actor=3), [eight]) == 2
    assert default_actors(ComputeConfig(threads_per_actor=4), [{"CPU": 2.0}]) == 1
    with pytest.raises(ConfigError, match="Ray sees 8 CPUs and 0 GPUs"):
        default_actors(ComputeConfig(gpus_per_actor=1), [eight])


@pytest.mark.parametrize(
    ("each", "nodes", "actors"),
    [
        (1, [(8, 4)], 4),
        (1, [(8, 1), (8, 1), (8, 0)], 2),
        (0.5, [(8, 2)], 4),
        (0.4, [(8, 2)], 4),  # two on each: no actor's fraction lies on two GPUs
        (0.3, [(8, 1)], 3),
        (1 / 3, [(8, 1)], 3),
        (2, [(8, 4)], 2),
        (2, [(8, 1), (8, 1), (8, 3)], 1),  # an actor's GPUs are of one machine
        (0.125, [(2, 1)], 3),  # half a core each, and a quarter for a reader
    ],
)
def test_gpus_are_lent_as_ray_lends_them(each: float, nodes: list[tuple[float, float]], actors: int) -> None:
    there = [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes]
    assert default_actors(ComputeConfig(gpus_per_actor=each), there) == actors


@pytest.mark.parametrize("gpus", [1.5, 2.25, float("inf"), -1])
def test_gpus_that_ray_cannot_lend_are_refused(gpus: float) -> None:
    with pytest.raises(ValueError, match="gpus_per_actor"):
        ComputeConfig(gpus_per_actor=gpus)


def test_a_gpu_by_its_number_is_one_of_those_that_the_environment_shows() -> None:
    assert chosen_gpu(1, None, 2) == "1"
    assert chosen_gpu(1, ["4", " 7"], 8) == "7"
    assert chosen_gpu(0, ["GPU-8932f937"], 8) == "GPU-8932f937"
    for number, visible, found, told in ((2, None, 2, "GPUs 0 to 1"), (1, ["3"], 4, "one GPU"), (0, None, 0, "no GPU")):
        with pytest.raises(ConfigError, match=rf"'cuda:{number}', but this process sees {told}"):
            chosen_gpu(number, visible, found)


def test_actors_and_their_readers_fit_on_the_cores_that_they_are_counted_by() -> None:
    for threads in (1, 2, 4):
        compute = ComputeConfig(threads_per_actor=threads)
        actors = default_actors(compute, [{"CPU": 8.0}])
        assert actors * (actor_resources(compute)["num_cpus"] + 0.25) <= 8


def test_the_thread_count_of_workers_is_the_plan_s_and_not_the_shell_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("GDAL_CACHEMAX", "999")
    environment = worker_environment(2)
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["GDAL_CACHEMAX"] == "999"
    assert environment["MALLOC_ARENA_MAX"] == "2"
