"""A region mapped end to end: what is written, that it is the same whoever computes it, and that work is never lost."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from rio_cogeo.cogeo import cog_validate

import pipeline
from pipeline.engine.cluster import Cluster
from pipeline.errors import NoScenesError, NothingMappedError, OutputError
from pipeline.machine.progress import LogProgress
from pipeline.mapstore.output_folders import map_lock
from pipeline.mapstore.status import run_states
from pipeline.mapstore.store import STATE_FOLDER, RunStore, run_folder
from pipeline.records.result import RunResult
from pipeline.runs.finished import map_name
from pipeline.settings.run_file import RunConfig
from spex_core.legend import Legend
from tests.conftest import tiny_config

pytestmark = pytest.mark.ray


def digests(result: RunResult) -> dict[str, str]:
    return {
        kind: hashlib.sha256(result.outputs[kind][0].read_bytes()).hexdigest()
        for kind in ("landcover", "confidence", "valid_count")
    }


@pytest.fixture(scope="module")
def whole(tiny_archive: Path, local_ray: Cluster, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """One run with two actors."""
    return pipeline.run(tiny_config(tiny_archive, tmp_path_factory.mktemp("whole")))


class StopAfter(LogProgress):
    """Interrupts a run when so many blocks are finished."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self._left = blocks

    def advance(self, amount: int = 1) -> None:
        super().advance(amount)
        self._left -= amount
        if self._left == 0:
            raise KeyboardInterrupt


def test_a_run_writes_everything_that_users_rely_on(whole: RunResult) -> None:
    assert whole.exit_code == 0
    assert (whole.blocks, whole.computed_blocks, whole.missing_blocks) == (4, 4, 0)
    assert all(path.is_file() for paths in whole.outputs.values() for path in paths)
    output = whole.outputs["catalog"][0].parent
    item = next((output / "spex-landcover").glob("tiny_*"))
    assert {path.name for path in item.iterdir()} >= {
        "landcover.tif",
        "confidence.tif",
        "valid_count.tif",
        "explanations.json",
        "explanations.md",
        "thumbnail.png",
        f"{item.name}.json",
    }
    assert (output / "report" / "index.html").is_file()
    assert (output / "spex-landcover" / "items.parquet").is_file()


def test_the_maps_are_valid_cogs_with_legend_codes_on_every_observed_pixel(whole: RunResult) -> None:
    for kind in ("landcover", "confidence", "valid_count"):
        valid, errors, _ = cog_validate(whole.outputs[kind][0], strict=True)
        assert valid, errors
    with rasterio.open(whole.outputs["landcover"][0]) as landcover, rasterio.open(whole.outputs["valid_count"][0]) as n:
        codes, counts = landcover.read(1), n.read(1)
    assert set(np.unique(codes)) <= {0, *Legend.from_yaml().codes}
    assert np.array_equal(codes != 0, (counts > 0) & (counts != 255))
    assert len(np.unique(codes)) > 3
    assert counts.max() == 2


def test_the_catalog_opens_with_pystac_and_leads_to_the_map(whole: RunResult) -> None:
    items = list(pystac.Catalog.from_file(str(whole.outputs["catalog"][0])).get_items(recursive=True))
    hrefs = [asset.get_absolute_href() for item in items for asset in item.assets.values()]
    assert str(whole.outputs["landcover"][0]) in hrefs


def test_every_sub_region_is_explained_in_numbers(whole: RunResult) -> None:
    document = json.loads(whole.outputs["explanations"][0].read_text())
    assert document["regions"]
    for region in document["regions"]:
        assert region["text"]
        assert region["observed_share"] > 0.99
        assert sum(entry["area_ha"] for entry in region["classes"]) == pytest.approx(region["area_ha"], rel=0.02)


def test_one_actor_and_two_give_the_same_bytes(tiny_archive: Path, whole: RunResult, tmp_path: Path) -> None:
    single = pipeline.run(tiny_config(tiny_archive, tmp_path, compute={"actors": 1, "prefetch": 0}))
    assert single.run_id == whole.run_id
    assert digests(single) == digests(whole)


def test_an_interrupted_run_goes_on_where_it_stopped(tiny_archive: Path, whole: RunResult, tmp_path: Path) -> None:
    from pipeline.runs.map_region import map_region

    config = tiny_config(tiny_archive, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        map_region(config, StopAfter(blocks=2))
    state = RunStore.open(run_folder(tmp_path, whole.run_id)).state()
    assert len(state.finished) == 2
    assert state.ended is not None
    assert state.ended.status == "interrupted"
    resumed = pipeline.run(config)
    assert resumed.computed_blocks == 2
    assert digests(resumed) == digests(whole)


@pytest.mark.long
def test_dates_classified_one_by_one_give_the_same_bytes_interrupted_or_not(
    tiny_archive: Path, whole: RunResult, tmp_path: Path
) -> None:
    from pipeline.runs.map_region import map_region

    def config(name: str, actors: int) -> RunConfig:
        changes = {"composite": {"method": "fuse"}, "compute": {"actors": actors}}
        return tiny_config(tiny_archive, tmp_path / name, **changes)

    fused = pipeline.run(config("two", 2))
    with pytest.raises(KeyboardInterrupt):
        map_region(config("one", 1), StopAfter(blocks=2))
    assert digests(pipeline.run(config("one", 1))) == digests(fused)
    assert fused.run_id != whole.run_id
    # Files differ by the id in their tags: what counts is in the pixels.
    maps = ((fused.outputs[kind][0], whole.outputs[kind][0]) for kind in ("valid_count", "confidence"))
    same = [np.array_equal(*(rasterio.open(path).read(1) for path in pair)) for pair in maps]
    assert same == [True, False]
    item = json.loads(next((tmp_path / "two" / "spex-landcover").glob("tiny_*/tiny_*.json")).read_text())
    assert item["properties"]["spex:composite"] == "fuse"
    assert "each date by itself" in item["properties"]["processing:lineage"]


def test_a_finished_run_is_not_run_again(tiny_archive: Path, whole: RunResult, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("Ray was asked for")

    monkeypatch.setattr("pipeline.runs.map_region.connected", refuse)
    monkeypatch.setattr("pipeline.runs.map_region.rehearse", refuse)
    before = {path: path.stat().st_mtime_ns for paths in whole.outputs.values() for path in paths}
    again = pipeline.run(tiny_config(tiny_archive, whole.outputs["catalog"][0].parent))
    assert again.reused
    assert again.outputs == whole.outputs
    assert {path: path.stat().st_mtime_ns for paths in again.outputs.values() for path in paths} == before


def test_a_deleted_map_is_published_again_without_computing(
    tiny_archive: Path, whole: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("Ray was asked for")

    monkeypatch.setattr("pipeline.runs.map_region.connected", refuse)
    before = digests(whole)
    whole.outputs["landcover"][0].unlink()
    again = pipeline.run(tiny_config(tiny_archive, whole.outputs["catalog"][0].parent))
    assert again.computed_blocks == 0
    assert digests(again) == before


def test_a_plan_writes_nothing_and_names_the_run(tiny_archive: Path, whole: RunResult, tmp_path: Path) -> None:
    planned = pipeline.plan(tiny_config(tiny_archive, tmp_path / "never"))
    assert planned.run_id == whole.run_id
    assert not (tmp_path / "never").exists()


def test_nothing_to_map_is_said_before_anything_is_started(tiny_archive: Path, tmp_path: Path) -> None:
    with pytest.raises(NoScenesError, match="2020-01"):
        pipeline.run(tiny_config(tiny_archive, tmp_path, start="2020-01-01", end="2020-01-31"))


def test_two_runs_do_not_write_one_folder(tiny_archive: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_archive, tmp_path)
    with map_lock(tmp_path, map_name(config)), pytest.raises(OutputError, match="being written by process"):
        pipeline.run(config)


def test_an_empty_month_leaves_the_map_that_is_there(tiny_archive: Path, whole: RunResult, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(whole.outputs["catalog"][0].parent, output)

    def published() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in output.rglob("*") if p.is_file() and STATE_FOLDER not in p.parts}

    before = published()
    # Every value of the scene classification is masked: as good as clouds everywhere.
    tiling = {"tile_px": 64, "overlap_px": 16, "block_px": 256}
    cloudy = tiny_config(tiny_archive, output, composite={"mask_scl": list(range(12))}, tiling=tiling)
    for _ in range(2):  # the second time nothing is computed, nor tried, and it is said again
        with pytest.raises(NothingMappedError, match=r"1 block and 2 scenes: every pixel is cloud"):
            pipeline.run(cloudy)
        assert published() == before
    assert sorted(run.stage for run in run_states(output)) == ["complete", "empty"]
