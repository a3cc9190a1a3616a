"""Publishing, tried on an empty map before the first pixel is read: what would end a run at its end ends it here.

Three attempts, in a folder below the output folder that is always removed again:

- a file of each zone's true shape and system with hardly a pixel in it (seconds for 40,960 x 40,960 px),
- everything that a run publishes, by the code that publishes it, for the same zones, regions, legend and scenes on a
  grid of at most :data:`TWIN_SIDE_PX` pixels a side,
- for each file that this wrote: its like can be written under its true name.

Before them, what can be looked up: the systems of the zones in GDAL's and pyproj's data, and room on the disk.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import shapely
from pyproj.exceptions import ProjError
from rasterio._err import CPLE_BaseError
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform as transform_points

from pipeline.errors import CogError, InstallationError, OutputError, ReadError, StoreError
from pipeline.machine.atomic_files import replacing
from pipeline.machine.progress import Progress, size_text
from pipeline.mapstore.layers import LAYERS
from pipeline.mapstore.store import RunStore, run_folder
from pipeline.outputs.cog import write_blank_landcover_cog
from pipeline.outputs.cog_writer import WRITE_ERRORS
from pipeline.outputs.publish import publish_run
from pipeline.outputs.stac_catalog import CatalogWarning
from pipeline.outputs.stac_model import models_collection_id
from pipeline.planning.estimate import DiskUse, disk_use
from pipeline.planning.prepare import Prepared
from pipeline.records.grid import grid_window, unproject
from pipeline.records.plan import Block, ZoneGrid, ZonePlan
from spex_core.durable_files import open_own

logger = logging.getLogger(__name__)

TWIN_SIDE_PX = 1024
"""Longest side of the small map that is published; larger than a tile, so that it has overviews."""
MAX_TWIN_REGIONS = 100
"""Sub-regions that the small map explains, evenly chosen: ten thousand would take most of a minute."""
_AGREEMENT_DEGREES = 1e-5
"""GDAL and pyproj, each with data of its own, place a corner within about a metre of each other."""

_FAILURES: tuple[type[Exception], ...] = (OutputError, CogError, ReadError, StoreError, *WRITE_ERRORS)


def rehearsal_folder(state: Path) -> Path:
    """Where the attempts of a run are made, beside its state: several runs try at the same time."""
    return state.with_name(f"rehearsal-{state.name}")


def rehearse(prepared: Prepared, store: RunStore) -> None:
    """Tries to publish an empty map of the plan; leaves nothing behind, and says nothing if it succeeds.

    Args:
        prepared: What was decided for the run.
        store: The run's state: blocks that are finished need no more room.

    Raises:
        InstallationError: GDAL or PROJ work with foreign data; the message names the variable to unset.
        OutputError: The output folder cannot take the map: rights, room, something in the way, or a shape that no valid
            file has.
    """
    output = prepared.config.output
    for zone in prepared.plan.zones:
        check_projection(zone.grid)
    folder = rehearsal_folder(store.folder)
    with _scratch(folder):
        check_room(output, folder, disk_use(prepared.plan, len(prepared.legend), store.state().finished))
        with _told(output, folder):
            for zone in prepared.plan.zones:
                write_blank_landcover_cog(zone.grid, folder / "shape.tif", prepared.legend)
                (folder / "shape.tif").unlink()
            twin = folder / "output"
            _publish_twin(prepared, twin)
            _check_places(output, twin, f".rehearsal-{store.folder.name}")


# --- looked up ----------------------------------------------------------------------------------------------------


def check_projection(grid: ZoneGrid) -> None:
    """Asks GDAL and pyproj where the corner of a grid lies: both know the zone's system, and they agree.

    Raises:
        InstallationError: They do not.
    """
    try:
        corner = unproject(shapely.Point(grid.left, grid.top), grid.epsg)
        (lon,), (lat,) = transform_points(f"EPSG:{grid.epsg}", "EPSG:4326", [grid.left], [grid.top])
    except (CRSError, RasterioError, CPLE_BaseError, ProjError) as error:
        raise InstallationError(f"EPSG:{grid.epsg} cannot be looked up: {error}; {_foreign_data()}") from None
    if not max(abs(lon - corner.x), abs(lat - corner.y)) <= _AGREEMENT_DEGREES:
        raise InstallationError(
            f"EPSG:{grid.epsg}: GDAL places the map's corner at {lon:.5f}, {lat:.5f} and pyproj at {corner.x:.5f}, "
            f"{corner.y:.5f}; {_foreign_data()}"
        )


def _foreign_data() -> str:
    """What to do about it."""
    told = [f"{name}={os.environ[name]}" for name in ("PROJ_DATA", "PROJ_LIB", "GDAL_DATA") if os.environ.get(name)]
    if not told:
        return "the data of PROJ or GDAL is missing here: install rasterio and pyproj again"
    names = " ".join(text.partition("=")[0] for text in told)
    return f"{' and '.join(told)} may belong to another PROJ or GDAL: try again after `unset {names}`"


def check_room(output: Path, folder: Path, use: DiskUse) -> None:
    """Compares what a run will write with what the disk, and the limits of this process, leave.

    Too little for the files that publishing cannot do without ends the run; too little for the estimate is warned of.

    Raises:
        OutputError: No room; the message has the numbers.
    """
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if free < use.least_bytes:
        raise OutputError(
            f"{size_text(free)} are free on the disk of {output}; publishing alone needs {size_text(use.least_bytes)}, "
            f"the whole run about {size_text(use.total_bytes)}: make room or choose another output"
        )
    if free < use.total_bytes:
        logger.warning(
            "%s are free on the disk of %s; the run writes about %s: it may not suffice",
            size_text(free),
            output,
            size_text(use.total_bytes),
        )
    files = use.blocks * len(LAYERS)
    if disk.f_files and disk.f_favail < files:
        raise OutputError(
            f"the disk of {output} takes {disk.f_favail} more files, and the run writes {files}: choose another "
            "output, or larger blocks (tiling.block_px)"
        )
    largest = folder / "largest"
    try:
        with open_own(largest, "r+b") as file:
            os.ftruncate(file.fileno(), use.largest_file_bytes)  # takes no room: asks for the length only
        largest.unlink()
    except OSError as error:
        raise OutputError(
            f"{output} takes no file of {size_text(use.largest_file_bytes)} ({error.strerror}): raise the limit "
            "(`ulimit -f unlimited`), or choose a disk with large files"
        ) from None


# --- tried --------------------------------------------------------------------------------------------------------


class _Silent(Progress):
    """Nothing of an attempt belongs on the screen."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        return None

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        return None

    def advance(self, amount: int = 1) -> None:
        return None

    def say(self, message: str) -> None:
        return None


def _publish_twin(prepared: Prepared, output: Path) -> None:
    """Publishes the plan's zones on a small grid without a finished block, beside a copy of the catalog that is there.

    Raises:
        OutputError, CogError, ReadError, StoreError: See :func:`pipeline.outputs.publish.publish_run`.
    """
    plan = dataclasses.replace(prepared.plan, zones=tuple(_small(zone) for zone in prepared.plan.zones))
    config = prepared.config.model_copy(update={"output": output})
    store = RunStore.create(
        run_folder(output, plan.run_id), plan, prepared.legend, unfamiliar=bool(prepared.familiarity[0])
    )
    collection = config.publish.collection_id
    models = models_collection_id(collection)
    for name in ("catalog.json", f"{collection}/collection.json", f"{models}/collection.json"):
        there = prepared.config.output / name
        if there.is_file():
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(there, output / name)
    parts = prepared.region.subregions
    region = dataclasses.replace(prepared.region, subregions=parts[:: math.ceil(len(parts) / MAX_TWIN_REGIONS)])
    twin = dataclasses.replace(prepared, config=config, plan=plan, region=region)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CatalogWarning)  # items that the copied catalog links to are not copied
        publish_run(twin, store, _Silent(), None, seconds=0.0)


def _small(zone: ZonePlan) -> ZonePlan:
    grid = zone.grid
    factor = math.ceil(max(grid.height, grid.width) / TWIN_SIDE_PX)
    small = dataclasses.replace(
        grid,
        resolution_m=grid.resolution_m * factor,
        height=math.ceil(grid.height / factor),
        width=math.ceil(grid.width / factor),
    )
    return ZonePlan(small, (Block(0, grid_window(small), grid_window(small), (), (0,)),), zone.scene_ids)


def _check_places(output: Path, twin: Path, name: str) -> None:
    """Every file that the twin's publishing wrote has a place in the true folder.

    Args:
        output: The true folder.
        twin: Where the twin was published.
        name: Of the file that is tried, of this run alone: others may try at the same time.

    Raises:
        OutputError: A folder cannot be written, or a folder stands where a file must go.
    """
    folders = set()
    for written in sorted(path for path in twin.rglob("*") if path.is_file()):
        place = output / written.relative_to(twin)
        if place.is_dir():
            raise OutputError(f"{place} is a folder, and a file of that name must be written; move it away")
        folder = place.parent
        while not os.path.lexists(folder):  # the first that is there: the rest will be made in it
            folder = folder.parent
        folders.add(folder)
    for folder in sorted(folders):
        if not folder.is_dir():
            raise OutputError(f"{folder} is not a folder, and one of that name must be made; move it away")
        with replacing(folder / name):
            pass
        (folder / name).unlink()


@contextmanager
def _scratch(folder: Path) -> Iterator[None]:
    """An empty folder, gone afterwards; what a killed run left of it goes first.

    Raises:
        OutputError: It cannot be made.
    """
    try:
        if os.path.lexists(folder):
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written: {error.strerror or error}; check the disk and its rights"
        ) from error
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _told(output: Path, folder: Path) -> Iterator[None]:
    """Says of any failure that nothing was computed, and names true paths instead of the attempt's."""
    try:
        yield
    except _FAILURES as error:
        disk = os.statvfs(folder)
        reason = str(error).replace(f"{folder / 'output'}", str(output))
        raise OutputError(
            f"publishing was tried before computing, and fails: {reason} "
            f"({size_text(disk.f_bavail * disk.f_frsize)} are free there)"
        ) from None
