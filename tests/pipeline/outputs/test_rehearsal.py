"""What would end a run when it publishes ends it before the first pixel is read, and leaves nothing behind.

The faults are real where this machine lets a test cause them: small disks (tmpfs), folders that nobody may write,
limits on files, data of another PROJ.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import rasterio
import shapely

import pipeline
from pipeline.errors import OutputError
from pipeline.mapstore.store import RunStore, run_folder
from pipeline.outputs import rehearsal
from pipeline.outputs.publish import publish_run
from pipeline.outputs.rehearsal import rehearsal_folder, rehearse
from pipeline.planning.blocks import build_plan
from pipeline.planning.estimate import disk_use
from pipeline.planning.prepare import Prepared
from pipeline.records.region import Region
from pipeline.sources.catalog import SceneSearch
from tests.conftest import tiny_config
from tests.pipeline.small_plans import LEGEND, region_of, run_config, scene_over

TWO_ZONES = region_of(shapely.box(11.99, 46.0, 11.998, 46.01), shapely.box(11.998, 46.0, 12.01, 46.01))
SMALL = region_of(shapely.box(11.0, 46.0, 11.01, 46.01))
ITEM = "spex-landcover/test_2026-05-01_2026-05-31_32632"


def planned(output: Path, region: Region) -> tuple[Prepared, RunStore]:
    config = run_config(output=str(output))
    scenes = [scene_over("S2_1", region.geometry.buffer(0.1))]
    plan = build_plan(config, region, scenes, model_fingerprint="rules:1", legend=LEGEND)
    prepared = Prepared(config, region, LEGEND, SceneSearch(plan.scenes, ()), "rules:1", plan)
    return prepared, RunStore.create(run_folder(output, plan.run_id), plan, LEGEND)


def square_of(side_px: int) -> Region:
    """About so many pixels of 10 m a side, in the middle of zone 32."""
    width, height = side_px * 10 / 77_600, side_px * 10 / 111_200
    return region_of(shapely.box(9 - width / 2, 46 - height / 2, 9 + width / 2, 46 + height / 2))


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@contextmanager
def small_disk(folder: Path, *options: str) -> Iterator[Path]:
    """A file system of its own; skips where this user may not mount one."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Takes the right to write from everybody; root, whom no permission stops, by the immutable flag."""
    root = os.geteuid() == 0
    take, give = (["chattr", "+i"], ["chattr", "-i"]) if root else (["chmod", "a-w"], ["chmod", "u+w"])
    taken = subprocess.run([*take, str(folder)], check=False, capture_output=True) if shutil.which(take[0]) else None
    if taken is None or taken.returncode:
        pytest.skip("root cannot be kept from writing here")
    try:
        yield
    finally:
        subprocess.run([*give, str(folder)], check=True)


# --- nothing is wrong ---------------------------------------------------------------------------------------------


def test_an_attempt_leaves_the_output_as_it_was(tmp_path: Path) -> None:
    prepared, store = planned(tmp_path, TWO_ZONES)
    left_over = rehearsal_folder(store.folder) / "output" / "of a killed run"
    before = tree(tmp_path)
    left_over.mkdir(parents=True)
    rehearse(prepared, store)
    assert tree(tmp_path) == before


def test_an_attempt_beside_published_maps_changes_none_of_them(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    from pipeline.machine.progress import LogProgress

    prepared, store = planned(tmp_path, TWO_ZONES)
    publish_run(prepared, store, LogProgress(), None, seconds=1.0)
    before = tree(tmp_path)
    rehearse(prepared, store)
    assert tree(tmp_path) == before
    assert not [warning for warning in recwarn if "catalog" in str(warning.message)]


def test_runs_that_try_at_the_same_time_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run into the same folder tries all of its own between any two steps of one."""
    prepared, store = planned(tmp_path, SMALL)
    others = [planned(tmp_path, square_of(side)) for side in (64, 96, 128, 160)]
    true = rehearsal.replacing

    @contextmanager
    def interrupted(path: Path) -> Iterator[Path]:
        other = others.pop() if others else None
        with true(path) as draft:
            yield draft
        if other is not None:
            rehearse(*other)

    monkeypatch.setattr(rehearsal, "replacing", interrupted)
    rehearse(prepared, store)
    assert not others
    assert not list(tmp_path.rglob(".rehearsal*"))


def test_a_map_of_40_960_px_a_side_is_tried_in_seconds(tmp_path: Path) -> None:
    prepared, store = planned(tmp_path, square_of(40_960))
    assert max(max(z.grid.height, z.grid.width) for z in prepared.plan.zones) > 40_900
    if shutil.disk_usage(tmp_path).free < disk_use(prepared.plan, len(LEGEND)).least_bytes:
        pytest.skip("the disk of the temporary folder is too small for such a map")
    begun = time.process_time()
    rehearse(prepared, store)
    assert time.process_time() - begun < 20


def test_thousands_of_sub_regions_take_no_longer(tmp_path: Path) -> None:
    west, south, east, north = square_of(1500).geometry.bounds
    step = (east - west) / 3000
    prepared, store = planned(
        tmp_path, region_of(*(shapely.box(west + i * step, south, west + (i + 1) * step, north) for i in range(3000)))
    )
    begun = time.process_time()
    rehearse(prepared, store)
    assert time.process_time() - begun < 10


# --- the output folder --------------------------------------------------------------------------------------------


def folder_in_the_way(output: Path) -> None:
    (output / ITEM / "landcover.tif").mkdir(parents=True)


def file_in_the_way(output: Path) -> None:
    (output / "spex-landcover").write_text("mine")


def file_for_the_report(output: Path) -> None:
    (output / "report").write_text("mine")


def foreign_catalog(output: Path) -> None:
    (output / "catalog.json").write_text(json.dumps({"type": "table"}))


def broken_link(output: Path) -> None:
    (output / "report").symlink_to(output / "nowhere")


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (folder_in_the_way, "landcover.tif is a folder"),
        (file_in_the_way, "spex-landcover is not a folder"),
        (file_for_the_report, "report is not a folder"),
        (foreign_catalog, "catalog.json is not a STAC catalog"),
        (broken_link, "report is not a folder"),
    ],
)
def test_what_stands_in_the_way_is_named(tmp_path: Path, fault: Callable[[Path], None], named: str) -> None:
    prepared, store = planned(tmp_path, SMALL)
    fault(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=named) as caught:
        rehearse(prepared, store)
    assert str(tmp_path) in str(caught.value)
    assert "rehearsal" not in str(caught.value)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("where", [".spex", "spex-landcover", "report", "."])
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, where: str) -> None:
    prepared, store = planned(tmp_path, SMALL)
    (tmp_path / where).mkdir(exist_ok=True)
    with unwritable(tmp_path / where):
        with pytest.raises(OutputError, match="cannot be written") as caught:
            rehearse(prepared, store)
        assert str(tmp_path / where) in str(caught.value)
    assert not rehearsal_folder(store.folder).exists()


# --- room ---------------------------------------------------------------------------------------------------------


def test_a_disk_too_small_for_the_map_is_told_in_numbers(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=8m") as disk:
        with pytest.raises(OutputError, match=r"[78]\.\d MiB are free .* publishing alone needs 6[01]\.\d MiB"):
            rehearse(*planned(disk, square_of(3000)))
        assert not list((disk / ".spex").glob("rehearsal*"))


def test_a_disk_that_may_be_too_small_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with small_disk(tmp_path / "disk", "size=80m") as disk, caplog.at_level("WARNING", logger="pipeline"):
        rehearse(*planned(disk, square_of(3000)))
    assert "may not suffice" in caplog.text


@pytest.mark.parametrize("kib", [48, 96, 192, 256])
def test_a_disk_that_fills_up_fails_now_and_is_emptied(tmp_path: Path, kib: int) -> None:
    """So small a map passes the estimate; where the disk is full differs: the first file, a later one, the catalog."""
    with small_disk(tmp_path / "disk", f"size={kib}k") as disk:
        prepared, store = planned(disk, SMALL)
        before = tree(disk)
        with pytest.raises(OutputError, match="free"):
            rehearse(prepared, store)
        assert tree(disk) == before


def test_a_disk_that_takes_no_more_files_is_told(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=200m,nr_inodes=60") as disk:
        prepared, store = planned(disk, square_of(5000))
        with pytest.raises(OutputError, match="more files"):
            rehearse(prepared, store)


def test_a_limit_on_the_size_of_files_is_told(tmp_path: Path) -> None:
    prepared, store = planned(tmp_path, square_of(3000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, hard))
    try:
        with pytest.raises(OutputError, match=r"takes no file of 3[34]\.\d MiB .*ulimit -f"):
            rehearse(prepared, store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_finished_blocks_need_no_more_room(tmp_path: Path) -> None:
    prepared, _ = planned(tmp_path, square_of(3000))
    (zone,) = prepared.plan.zones
    done = {(zone.grid.epsg, block.index) for block in zone.blocks[1:]}
    whole, rest = disk_use(prepared.plan, len(LEGEND)), disk_use(prepared.plan, len(LEGEND), done)
    assert (whole.blocks, rest.blocks) == (len(zone.blocks), 1)
    assert rest.least_bytes == whole.least_bytes < rest.total_bytes < whole.total_bytes


# --- libraries ----------------------------------------------------------------------------------------------------


def run_command(archive: Path, output: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """``spex run`` in a process of its own: GDAL reads its data once."""
    config = tiny_config(archive, output)
    run_file = output.parent / "run.yaml"
    run_file.write_text(json.dumps(config.model_dump(mode="json", exclude_defaults=True)))
    clean = {key: value for key, value in os.environ.items() if key not in ("PROJ_LIB", "PROJ_DATA", "GDAL_DATA")}
    return subprocess.run(
        [sys.executable, "-m", "pipeline", "run", str(run_file)],
        check=False, capture_output=True, text=True, env={**clean, **environment},
        cwd=Path(pipeline.__file__).parents[1], timeout=240,
    )  # fmt: skip


def older_data(folder: Path) -> Path:
    """The data of an older PROJ, as far as a reader can tell."""
    shutil.copy(Path(rasterio.__file__).parent / "proj_data" / "proj.db", folder / "proj.db")
    with sqlite3.connect(folder / "proj.db") as database:
        database.execute("UPDATE metadata SET value = '0' WHERE key = 'DATABASE.LAYOUT.VERSION.MINOR'")
    return folder


ASK = """
from pipeline.outputs.rehearsal import check_projection
from pipeline.records.plan import ZoneGrid
check_projection(ZoneGrid(epsg=32632, left=6e5, top=5e6, resolution_m=10.0, height=1, width=1))
"""


@pytest.mark.parametrize(("variable", "data"), [("PROJ_LIB", "missing"), ("PROJ_DATA", "older")])
def test_data_of_another_proj_that_are_in_use_are_refused(tmp_path: Path, variable: str, data: str) -> None:
    """Where the wheels carry none that could be used instead: see pipeline/machine/wheel_data.py."""
    if data == "older" and not (Path(rasterio.__file__).parent / "proj_data" / "proj.db").is_file():
        pytest.skip("rasterio has no data of its own here")
    folder = older_data(tmp_path) if data == "older" else tmp_path / "nowhere"
    clean = {key: value for key, value in os.environ.items() if key not in ("PROJ_LIB", "PROJ_DATA", "GDAL_DATA")}
    done = subprocess.run(
        [sys.executable, "-c", ASK], check=False, capture_output=True, text=True,
        env={**clean, variable: str(folder)}, cwd=Path(pipeline.__file__).parents[1],
    )  # fmt: skip
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("pipeline.errors.InstallationError: EPSG:32632 cannot be looked up")
    assert f"unset {variable}" in message


def test_a_gdal_without_geotiff_is_refused_before_anything_is_computed(tiny_archive: Path, tmp_path: Path) -> None:
    done = run_command(tiny_archive, tmp_path / "out", GDAL_SKIP="GTiff")
    assert done.returncode == 2, done.stderr
    assert "GTiff" in done.stderr.strip().splitlines()[-1]
    assert not list((tmp_path / "out").rglob("journal.jsonl"))


# --- in a run -----------------------------------------------------------------------------------------------------


def test_a_run_whose_map_could_not_be_published_never_starts_ray(
    tiny_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("Ray was asked for")

    monkeypatch.setattr("pipeline.runs.map_region.connected", refuse)
    (tmp_path / "report").write_text("mine")
    with pytest.raises(OutputError, match=r"report cannot be written: it is no folder"):
        pipeline.run(tiny_config(tiny_archive, tmp_path))
    assert not list(tmp_path.rglob("journal.jsonl"))
    assert (tmp_path / "report").read_text() == "mine"
