"""The demonstration in small: simulated archive, STAC API and HTTP on loopback, map, comparison with the truth."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest
from rich.console import Console

from pipeline.commands.screens import show_demo
from pipeline.engine.cluster import Cluster
from pipeline.machine.progress import LogProgress
from pipeline.mapstore.store import run_folder
from pipeline.planning.plan_file import read_plan
from pipeline.runs.demo import DemoResult, demo, simulated_archive
from pipeline.settings.run_file import RunConfig
from pipeline.simulation import DEMO_SPEC
from pipeline.simulation.granules import granule_grid

pytestmark = pytest.mark.ray

SETTINGS = {"tiling": {"tile_px": 64, "overlap_px": 16, "block_px": 128}}
SPEC = dataclasses.replace(
    DEMO_SPEC, granules=granule_grid(32632, 640_000, 5_150_000, size_px=192, overlap_px=32, columns=2)
)


@pytest.fixture(scope="module")
def result(local_ray: Cluster, tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    folder = tmp_path_factory.mktemp("demo")
    return demo(folder, LogProgress(), actors=2, checkpoint="index-rules", spec=SPEC, settings=SETTINGS)


def test_the_demo_maps_and_measures_itself(result: DemoResult) -> None:
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["exit_code"] == 0
    assert {"outputs", "seconds", "tiles", "blocks", "peak_memory_mb", "accuracy", "index_accuracy", "miou"} <= set(
        document
    )
    # The map here is the index rules' own: rules applied by tile and by block must agree.
    assert document["accuracy"] == pytest.approx(document["index_accuracy"], abs=0.002)
    assert 0.3 < document["accuracy"] <= 1.0


def test_the_report_tells_the_accuracy(result: DemoResult) -> None:
    assert "the simulated truth" in result.run.outputs["report"][0].read_text()


def test_the_screen_tells_areas_accuracy_places_and_what_to_do_next(result: DemoResult) -> None:
    screen = io.StringIO()
    show_demo(result, Console(file=screen, width=120))
    text = screen.getvalue()
    assert "Trees" in text
    assert f"{result.map.overall:.1%}" in text
    assert str(result.run.outputs["landcover"][0]) in text
    assert f"spex run {result.run_file}" in text


def test_the_run_file_that_is_left_plans_the_same_scenes_without_the_servers(result: DemoResult) -> None:
    import pipeline

    planned = pipeline.plan(RunConfig.from_yaml(result.run_file))
    served = read_plan(run_folder(result.run_file.parent, result.run.run_id) / "plan.json")
    assert [scene.id for scene in planned.scenes] == [scene.id for scene in served.scenes]
    assert all(asset.href.startswith("http://127.") for scene in served.scenes for asset in scene.assets.values())
    assert all(asset.href.startswith(("/", "file:")) for scene in planned.scenes for asset in scene.assets.values())


def test_the_archive_is_simulated_once(result: DemoResult, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("simulated again")

    monkeypatch.setattr("pipeline.runs.demo.write_archive", refuse)
    folder = result.run_file.parent / "archive"
    assert simulated_archive(folder, SPEC, LogProgress()) == folder
    other = dataclasses.replace(SPEC, world=dataclasses.replace(SPEC.world, seed=8))
    with pytest.raises(AssertionError, match="simulated again"):
        simulated_archive(folder, other, LogProgress())
