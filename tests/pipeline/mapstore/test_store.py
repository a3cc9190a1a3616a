"""The run's state: one chunk per block and layer, resume that trusts nothing it can check, no mixing of plans."""

from __future__ import annotations

import datetime as dt
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
import zarr

from pipeline.errors import OutputError, StoreError
from pipeline.mapstore.index_cells import CELL_PX, INDEX_NODATA
from pipeline.mapstore.journal import BlockFailed, BlockFinished
from pipeline.mapstore.layers import LAYERS
from pipeline.mapstore.store import RunStore, run_folder
from pipeline.planning.blocks import build_plan
from pipeline.planning.plan_file import stored_plan
from pipeline.predict.stitch import BlockLayers
from pipeline.records.plan import MapPlan, Window
from pipeline.records.scene import SceneAsset
from pipeline.settings.run_file import TilingConfig
from spex_core.indices import SPECTRAL_INDICES
from spex_core.legend import Legend
from tests.pipeline.small_plans import (
    EPSG,
    LEGEND,
    plan_of,
    random_layers,
    region_of,
    run_config,
    scene_over,
    zone_of,
)

TILING = TilingConfig(tile_px=64, overlap_px=16, block_px=64)
AREA = shapely.box(9.0, 46.0, 9.01, 46.01)


@pytest.fixture
def plan() -> MapPlan:
    return plan_of(zone_of(100, 150, TILING), zone_of(40, 30, TILING, epsg=32633), tiling=TILING)


def write_all(store: RunStore, seed: int = 0) -> dict[tuple[int, int], str]:
    rng = np.random.default_rng(seed)
    digests = {}
    with store.journal_writer() as journal:
        for zone in store.plan.zones:
            for block in zone.blocks:
                layers, counts, means = random_layers(rng, block.window.height, block.window.width)
                digest = store.write_block(zone.grid.epsg, block, layers, counts, means)
                journal.append(BlockFinished(zone.grid.epsg, block.index, 0.1, 0.9, digest))
                digests[zone.grid.epsg, block.index] = digest
    return digests


def chunk(store: RunStore, layer: str, *position: int) -> Path:
    leading = {"scores": ("0",), "index_means": ("0", "0")}.get(layer, ())
    return store.zarr_path.joinpath(str(EPSG), layer, "c", *leading, *(str(i) for i in position))


def test_run_folder_lies_below_the_output() -> None:
    assert run_folder("out", "0123") == Path("out/.spex/0123")


def test_what_was_written_is_read_by_any_window(tmp_path: Path, plan: MapPlan) -> None:
    store = RunStore.create(tmp_path, plan, LEGEND)
    rng = np.random.default_rng(5)
    truth = {
        "scores": np.zeros((len(LEGEND), 100, 150), np.uint8),
        "landcover": np.zeros((100, 150), np.uint8),
        "confidence": np.zeros((100, 150), np.uint8),
        "valid_count": np.zeros((100, 150), np.uint8),
        "index_means": np.zeros((len(SPECTRAL_INDICES), len(LEGEND), 13, 19), np.int16),
    }
    for block in plan.zones[0].blocks:
        layers, counts, means = random_layers(rng, block.window.height, block.window.width)
        store.write_block(EPSG, block, layers, counts, means)
        values = {**vars(layers), "valid_count": counts, "index_means": means}
        for name in truth:
            cell = CELL_PX if name == "index_means" else 1
            row, col = block.window.row // cell, block.window.col // cell
            height, width = values[name].shape[-2:]
            truth[name][..., row : row + height, col : col + width] = values[name]
    zone = RunStore.open(tmp_path).zone(EPSG)
    for name in LAYERS:
        np.testing.assert_array_equal(zone.read(name), truth[name])
        part = zone.read(name, Window(50, 60, 30, 20))  # across four blocks
        rows, cols = (slice(6, 10), slice(7, 10)) if name == "index_means" else (slice(50, 80), slice(60, 80))
        np.testing.assert_array_equal(part, truth[name][..., rows, cols])
        assert part.dtype == truth[name].dtype


def test_each_block_is_exactly_one_chunk_file_of_each_layer(tmp_path: Path, plan: MapPlan) -> None:
    store = RunStore.create(tmp_path, plan, LEGEND)
    block = plan.zones[0].blocks[4]  # second row, second column
    layers, counts, means = random_layers(np.random.default_rng(0), block.window.height, block.window.width)
    store.write_block(EPSG, block, layers, counts, means)
    files = [path for path in store.zarr_path.rglob("*") if path.is_file() and path.name != "zarr.json"]
    assert sorted(files) == sorted(chunk(store, layer, 1, 1) for layer in LAYERS)
    assert sorted(files) == sorted(Path(store.zone(EPSG).chunk(layer, block)) for layer in LAYERS)


def test_blocks_without_anything_are_written_too(tmp_path: Path, plan: MapPlan) -> None:
    store = RunStore.create(tmp_path, plan, LEGEND)
    block = plan.zones[0].blocks[0]
    shape = (64, 64)
    nothing = BlockLayers(np.zeros((9, *shape), np.uint8), np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8))
    store.write_block(EPSG, block, nothing, np.zeros(shape, np.uint8), np.full((8, 9, 8, 8), INDEX_NODATA, np.int16))
    assert all(chunk(store, layer, 0, 0).stat().st_size > 0 for layer in LAYERS)


def test_blocks_that_were_not_written_read_as_nodata(tmp_path: Path, plan: MapPlan) -> None:
    zone = RunStore.create(tmp_path, plan, LEGEND).zone(EPSG)
    assert not zone.read("landcover").any()
    assert (zone.read("confidence") == 255).all()
    assert (zone.read("index_means") == INDEX_NODATA).all()


def test_store_is_zarr_v3_that_others_can_open(tmp_path: Path, plan: MapPlan) -> None:
    store = RunStore.create(tmp_path, plan, LEGEND)
    root = zarr.open_group(store.zarr_path, mode="r")
    array = root["32633/scores"]
    assert root.metadata.zarr_format == 3
    assert array.chunks == (len(LEGEND), 64, 64)
    assert array.metadata.dimension_names == ("class", "y", "x")
    assert root.attrs["legend"]["classes"][0]["code"] == LEGEND.codes[0]
    assert root["32633"].attrs["crs"] == "EPSG:32633"


def test_same_pixels_give_the_same_files_and_sha256(tmp_path: Path, plan: MapPlan) -> None:
    first, second = (RunStore.create(tmp_path / name, plan, LEGEND) for name in "ab")
    assert write_all(first) == write_all(second)
    for path in first.zarr_path.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (second.zarr_path / path.relative_to(first.zarr_path)).read_bytes()


def test_writing_a_block_again_replaces_it(tmp_path: Path, plan: MapPlan) -> None:
    store = RunStore.create(tmp_path, plan, LEGEND)
    write_all(store, seed=1)
    digests = write_all(store, seed=2)
    assert {key: record.sha256 for key, record in store.finished_blocks("full").items()} == digests


def _write_one(folder: Path, index: int) -> str:
    store = RunStore.open(folder)
    block = store.plan.zones[0].blocks[index]
    layers, counts, means = random_layers(np.random.default_rng(index), block.window.height, block.window.width)
    return store.write_block(EPSG, block, layers, counts, means)


def test_blocks_written_by_several_processes_are_all_there(tmp_path: Path, plan: MapPlan) -> None:
    store = RunStore.create(tmp_path, plan, LEGEND)
    blocks = plan.zones[0].blocks
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        digests = pool.starmap(_write_one, [(tmp_path, block.index) for block in blocks])
    assert [store.block_sha256(EPSG, block) for block in blocks] == digests


def test_store_can_be_sent_to_a_worker(tmp_path: Path, plan: MapPlan) -> None:
    store = RunStore.create(tmp_path, plan, LEGEND)
    digests = write_all(store)
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301 (our own bytes)
    assert copy.block_sha256(EPSG, plan.zones[0].blocks[2]) == digests[EPSG, 2]


# --- resume -------------------------------------------------------------------------------------------------------


def test_only_journalled_blocks_count_as_finished(tmp_path: Path, plan: MapPlan) -> None:
    store = RunStore.create(tmp_path, plan, LEGEND)
    block = plan.zones[0].blocks[0]
    layers, counts, means = random_layers(np.random.default_rng(0), 64, 64)
    digest = store.write_block(EPSG, block, layers, counts, means)
    assert store.finished_blocks() == {}
    with store.journal_writer() as journal:
        journal.append(BlockFinished(EPSG, 0, 0.1, 1.0, digest))
        journal.append(BlockFinished(EPSG, 999, 0.1, 1.0, digest))  # not in this plan
        journal.append(BlockFailed(EPSG, 1, 3, "lost"))
    assert list(RunStore.create(tmp_path, plan, LEGEND).finished_blocks("full")) == [(EPSG, 0)]
    assert list(store.state().failed) == [(EPSG, 1)]


def test_a_lost_or_empty_chunk_is_found_by_the_fast_check(tmp_path: Path, plan: MapPlan) -> None:
    store = RunStore.create(tmp_path, plan, LEGEND)
    everything = write_all(store).keys()
    chunk(store, "confidence", 0, 1).unlink()
    chunk(store, "scores", 1, 0).write_bytes(b"")
    assert store.finished_blocks("fast").keys() == everything - {(EPSG, 1), (EPSG, 3)}
    assert store.finished_blocks("full").keys() == everything - {(EPSG, 1), (EPSG, 3)}


@pytest.mark.parametrize("damage", ["flip", "cut", "swap"])
def test_a_damaged_chunk_is_found_by_the_full_check(tmp_path: Path, plan: MapPlan, damage: str) -> None:
    store = RunStore.create(tmp_path, plan, LEGEND)
    write_all(store)
    path = chunk(store, "landcover", 0, 0)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 0xFF
    elif damage == "cut":
        del content[len(content) // 2 :]
    else:  # a chunk that is whole, but another block's
        content = bytearray(chunk(store, "landcover", 0, 1).read_bytes())
    path.write_bytes(content)
    assert (EPSG, 0) in store.finished_blocks("none")
    expected = {(zone.grid.epsg, block.index) for zone in plan.zones for block in zone.blocks} - {(EPSG, 0)}
    assert store.finished_blocks("full").keys() == expected
    if damage != "swap":
        with pytest.raises(StoreError, match="landcover"):
            store.zone(EPSG).read("landcover")


def test_reopening_keeps_what_is_there(tmp_path: Path, plan: MapPlan) -> None:
    write_all(RunStore.create(tmp_path, plan, LEGEND))
    again = RunStore.create(tmp_path, plan, LEGEND)
    assert len(again.finished_blocks("full")) == sum(len(zone.blocks) for zone in plan.zones)


def test_a_folder_whose_making_was_interrupted_is_made_again(tmp_path: Path, plan: MapPlan) -> None:
    store = RunStore.create(tmp_path, plan, LEGEND)
    (tmp_path / "plan.json").unlink()  # written last
    (store.zarr_path / "zarr.json").write_text("{")
    assert RunStore.create(tmp_path, plan, LEGEND).zone(EPSG).read("landcover").shape == (100, 150)


def test_settings_that_cannot_change_a_pixel_may_differ_on_resume(tmp_path: Path, plan: MapPlan) -> None:
    write_all(RunStore.create(tmp_path, plan, LEGEND))
    renamed = replace(plan, config={**plan.config, "name": "renamed"})
    assert RunStore.create(tmp_path, renamed, LEGEND).finished_blocks()


def test_the_links_and_colours_of_the_newest_run_are_kept_on_resume(tmp_path: Path) -> None:
    def planned(signature: str, second: int, colour: str) -> tuple[MapPlan, Legend]:
        scenes = [
            scene_over(
                name,
                AREA,
                cloud_cover=cloud,
                datetime=dt.datetime(2026, 5, 1, 10, 0, at, tzinfo=dt.UTC),
                assets={"B02": SceneAsset(f"https://example.org/{name}/B02.tif?X-Amz-Signature={signature}")},
            )
            for name, at, cloud in (("a", 1, 10.0), ("b", second, 20.0))
        ]
        first = replace(LEGEND.classes[0], color=colour)
        legend = replace(LEGEND, classes=(first, *LEGEND.classes[1:]))
        config = run_config(tiling=TILING.model_dump())
        return build_plan(config, region_of(AREA), scenes, model_fingerprint="m", legend=legend, software={}), legend

    old, new = planned("1f", 2, "#111111"), planned("2e", 0, "#222222")
    assert old[0].run_id == new[0].run_id
    assert old[0].zones != new[0].zones, "the order of the scenes is another"
    write_all(RunStore.create(tmp_path, *old))
    again = RunStore.create(tmp_path, *new)
    assert len(again.finished_blocks("full")) == sum(len(zone.blocks) for zone in old[0].zones)
    assert again.plan is new[0]
    assert RunStore.open(tmp_path).plan == stored_plan(new[0])
    assert "Signature" not in (tmp_path / "plan.json").read_text()
    assert zarr.open_group(again.zarr_path, mode="r").attrs["legend"] == new[1].to_dict()


# --- refusals -----------------------------------------------------------------------------------------------------


def test_a_folder_of_another_run_is_refused(tmp_path: Path, plan: MapPlan) -> None:
    RunStore.create(tmp_path, plan, LEGEND)
    with pytest.raises(StoreError, match="fedcba9876543210"):
        RunStore.create(tmp_path, replace(plan, run_id="fedcba9876543210"), LEGEND)
    with pytest.raises(StoreError, match="other blocks"):
        RunStore.create(tmp_path, replace(plan, zones=plan.zones[:1]), LEGEND)


def test_a_store_of_another_run_under_a_plan_is_refused(tmp_path: Path, plan: MapPlan) -> None:
    store = RunStore.create(tmp_path, plan, LEGEND)
    metadata = json.loads((store.zarr_path / "zarr.json").read_text())
    metadata["attributes"]["run_id"] = "fedcba9876543210"
    (store.zarr_path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(StoreError, match="fedcba9876543210"):
        RunStore.open(tmp_path)


def test_a_folder_without_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"plan\.json"):
        RunStore.open(tmp_path)


def test_unknown_zones_and_windows_off_the_grid_are_refused(tmp_path: Path, plan: MapPlan) -> None:
    store = RunStore.create(tmp_path, plan, LEGEND)
    with pytest.raises(StoreError, match="EPSG:32601"):
        store.zone(32601)
    with pytest.raises(StoreError, match="outside the grid"):
        store.zone(EPSG).read("landcover", Window(-1, 0, 4, 4))


def test_layers_of_wrong_shape_or_type_are_refused_before_anything_is_written(tmp_path: Path, plan: MapPlan) -> None:
    store = RunStore.create(tmp_path, plan, LEGEND)
    block = plan.zones[0].blocks[0]
    layers, counts, means = random_layers(np.random.default_rng(0), 64, 64)
    with pytest.raises(StoreError, match="'index_means' is float64"):
        store.write_block(EPSG, block, layers, counts, means.astype(float))
    with pytest.raises(StoreError, match=r"'valid_count' is uint8\[1, 64\]"):
        store.write_block(EPSG, block, layers, counts[:1], means)
    assert not list(store.zarr_path.rglob("c"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path, plan: MapPlan) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        RunStore.create(tmp_path / "run", plan, LEGEND)


def test_a_file_in_the_way_of_the_folder_is_said_so(tmp_path: Path, plan: MapPlan) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        RunStore.create(tmp_path / "file" / "run", plan, LEGEND)


@pytest.mark.parametrize("position", [(0, 0), (1, 2)], ids=["inside", "at the border"])
def test_a_damaged_block_is_mended_by_writing_it_again(
    tmp_path: Path, plan: MapPlan, position: tuple[int, int]
) -> None:
    store = RunStore.create(tmp_path, plan, LEGEND)
    digests = write_all(store)
    for layer in LAYERS:
        chunk(store, layer, *position).write_bytes(b"torn")
    assert len(store.finished_blocks("full")) == len(digests) - 1
    assert write_all(store) == digests
    assert len(store.finished_blocks("full")) == len(digests)


def test_a_writer_killed_at_any_moment_leaves_only_whole_chunks(tmp_path: Path, plan: MapPlan) -> None:
    store = RunStore.create(tmp_path, plan, LEGEND)
    program = (
        "import sys\n"
        "from tests.pipeline.mapstore.test_store import *\n"
        "store = RunStore.open(sys.argv[1])\n"
        "print('ready', flush=True)\n"
        "for seed in range(10_000):\n"
        "    for block in store.plan.zones[0].blocks:\n"
        "        drawn = random_layers(np.random.default_rng(seed), block.window.height, block.window.width)\n"
        "        store.write_block(EPSG, block, *drawn)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"ready\n"
    time.sleep(0.4)
    writer.kill()
    writer.wait()
    writer.stdout.close()
    chunk(store, "landcover", 0, 0).with_name("0.0123.partial").write_bytes(b"half")
    store.journal_writer().close()
    assert not list(store.zarr_path.rglob("*.partial"))
    for layer in LAYERS:
        store.zone(EPSG).read(layer)  # every chunk carries a checksum
    assert store.finished_blocks() == {}, "nothing was journalled, so nothing counts"


def test_the_plan_is_parsed_once_until_its_file_changes(tmp_path: Path, plan: MapPlan) -> None:
    RunStore.create(tmp_path, plan, LEGEND)
    first = RunStore.open(tmp_path).plan
    assert RunStore.open(tmp_path).plan is first
    (tmp_path / "plan.json").write_text("{", encoding="utf-8")
    with pytest.raises(StoreError, match="not JSON"):
        RunStore.open(tmp_path)
