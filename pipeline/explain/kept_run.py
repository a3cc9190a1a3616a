"""A finished run whose store was kept: what ``spex explain DIR --at`` and ``spex ask`` look into.

The store keeps the plan, class scores, indices and counts; reflectance it does not keep (40 bytes a pixel). It is read
again from the scenes of the plan, by the code that made the map.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from pipeline.errors import BadInputError, OutputError
from pipeline.mapstore.output_folders import output_folders, state_folders
from pipeline.mapstore.store import CLEANED_PLAN_FILE, PLAN_FILE, RESULT_FILE, RunStore
from pipeline.records.grid import grid_window, project, unproject, window_bounds
from pipeline.records.plan import Block, Window, ZonePlan
from pipeline.records.scene import Scene, SceneAsset
from pipeline.settings.run_file import RunConfig
from pipeline.sources.catalog import asset_door
from pipeline.sources.hosts import is_this_machine
from pipeline.sources.hrefs import AssetDoor
from spex_core.legend import Legend

ARCHIVE_FOLDER = "archive"
"""Below an output folder: files that a server of this machine gave out while the run went on (``spex demo``)."""


@dataclass(frozen=True)
class ExplainedRegion:
    """A sub-region as the map's ``explanations.json`` tells it."""

    id: str
    name: str
    text: str
    geometry: BaseGeometry
    """Lon/lat."""


@dataclass(frozen=True)
class MappedPixel:
    """A point on the map."""

    lon: float
    lat: float
    zone: ZonePlan
    block: Block
    row: int
    """Of the zone's grid."""
    col: int
    code: int
    """Class of the map."""

    @property
    def window(self) -> Window:
        """The pixel alone."""
        return Window(self.row, self.col, 1, 1)


class KeptRun:
    """One run of an output folder, with everything that is needed to compute parts of it again."""

    def __init__(self, output: Path, store: RunStore) -> None:
        """Use :func:`open_kept_run`."""
        self.output = output
        self.store = store
        self.plan = store.plan
        self.config = RunConfig.from_dict(store.plan.config, source=f"the settings in {store.folder / PLAN_FILE}")
        self.legend: Legend = store.legend

    @property
    def door(self) -> AssetDoor:
        """What may be opened: what the run was allowed to, and files that it read through a server of this machine."""
        return asset_door(self.config.source)

    def scenes(self, zone: ZonePlan) -> tuple[Scene, ...]:
        """Scenes of a zone, files of a server that was on this machine as files where they lie."""
        found = {scene.id: scene for scene in self.plan.scenes}
        return tuple(_at_home(found[i], self.output / ARCHIVE_FOLDER) for i in zone.scene_ids)

    def regions(self) -> tuple[ExplainedRegion, ...]:
        """Sub-regions as published, each once; none where the files are gone or were made by another run."""
        collection = self.output / self.config.publish.collection_id
        found: dict[str, ExplainedRegion] = {}
        for path in sorted(collection.glob("*/explanations.json")):
            try:
                document = json.loads(path.read_text(encoding="utf-8"))
                if document.get("run_id") == self.plan.run_id:
                    for entry in document["regions"]:
                        found.setdefault(str(entry["id"]), _region(entry))
            except (OSError, ValueError, LookupError, TypeError, AttributeError, shapely.errors.ShapelyError):
                continue  # the map itself is what is asked about
        return tuple(found.values())

    def region_at(self, lon: float, lat: float) -> ExplainedRegion | None:
        """The sub-region that holds a point, the smallest of several."""
        point = shapely.Point(lon, lat)
        here = [region for region in self.regions() if region.geometry.covers(point)]
        return min(here, key=lambda region: (region.geometry.area, region.id), default=None)

    def region(self, region_id: str) -> ExplainedRegion:
        """A sub-region by its id.

        Raises:
            BadInputError: There is none; the message names some that there are.
        """
        regions = self.regions()
        for region in regions:
            if region.id == region_id:
                return region
        known = ", ".join(region.id for region in regions[:8]) + (", ..." if len(regions) > 8 else "")
        raise BadInputError(f"the map in {self.output} has no sub-region {region_id!r}; there are: {known or 'none'}")

    def pixel(self, lon: float, lat: float) -> MappedPixel:
        """The mapped pixel at a point.

        Raises:
            BadInputError: No such place, outside the map, or not observed there; the message says which.
        """
        if not (-180 <= lon <= 180 and -90 <= lat <= 90):
            raise BadInputError(f"--at {lon:g},{lat:g} is no place: longitude -180..180 comes first, latitude -90..90")
        inside: list[tuple[ZonePlan, Block, int, int]] = []
        for zone in self.plan.zones:
            grid = zone.grid
            x, y = project(shapely.Point(lon, lat), grid.epsg).coords[0]
            if not (abs(x) < 1e9 and abs(y) < 1e9):  # infinite where the zone's projection has no such place
                continue
            row, col = int((grid.top - y) // grid.resolution_m), int((x - grid.left) // grid.resolution_m)
            block = next((b for b in zone.blocks if _holds(b.window, row, col)), None)
            if block is None:
                continue
            code = int(self.store.zone(grid.epsg).read("landcover", Window(row, col, 1, 1))[0, 0])
            if code != self.legend.nodata:
                return MappedPixel(lon, lat, zone, block, row, col, code)
            inside.append((zone, block, row, col))
        raise BadInputError(self._why_not(lon, lat, inside))

    def _why_not(self, lon: float, lat: float, inside: list[tuple[ZonePlan, Block, int, int]]) -> str:
        where = f"{lon:g},{lat:g}"
        if self.region_at(lon, lat) is not None or not self.config.publish.clip:
            failed = self.store.state().failed
            for zone, block, row, col in inside:
                if (zone.grid.epsg, block.index) in failed:
                    return f"there is no map at {where}: its block could not be computed; spex run tries it again"
                if not int(self.store.zone(zone.grid.epsg).read("valid_count", Window(row, col, 1, 1))[0, 0]):
                    return f"there is no map at {where}: no scene saw the ground there without cloud or shadow"
        west, south, east, north = self._bounds()
        return (
            f"{where} lies outside the map in {self.output}, which covers {west:.3f},{south:.3f} to "
            f"{east:.3f},{north:.3f} (longitude first)"
        )

    def _bounds(self) -> tuple[float, float, float, float]:
        boxes = [
            unproject(shapely.box(*window_bounds(z.grid, grid_window(z.grid))), z.grid.epsg) for z in self.plan.zones
        ]
        bounds = shapely.union_all(boxes).bounds
        return bounds[0], bounds[1], bounds[2], bounds[3]


def open_kept_run(output: Path, run_id: str | None = None) -> KeptRun:
    """Opens the run of an output folder whose map is published there; of several, the one published last.

    Args:
        output: The output folder.
        run_id: The run that is meant.

    Raises:
        OutputError: No run, several output folders, or no store any more; the message says what helps.
        StoreError: The store is damaged.
    """
    folders = dict(output_folders(output))
    if "" not in folders:
        names = ", ".join(str(path) for path in list(folders.values())[:4])
        raise OutputError(f"{output} holds several maps: name the folder of one, such as {names}")
    states = [folder for folder in state_folders(output) if run_id is None or folder.name == run_id]
    kept = [folder for folder in states if (folder / PLAN_FILE).is_file()]
    finished = [folder for folder in kept if (folder / RESULT_FILE).is_file()]
    if not kept or (not finished and any((folder / CLEANED_PLAN_FILE).is_file() for folder in states)):
        raise OutputError(
            f"the store of the map in {output} was cleaned away (spex clean): spex run with the same run file computes "
            "it again"
        )
    chosen = max(finished or kept, key=lambda folder: (_written(folder), folder.name))
    return KeptRun(output, RunStore.open(chosen))


def _written(folder: Path) -> int:
    path = folder / RESULT_FILE
    return (path if path.is_file() else folder / PLAN_FILE).stat().st_mtime_ns


def _holds(window: Window, row: int, col: int) -> bool:
    return 0 <= row - window.row < window.height and 0 <= col - window.col < window.width


def _region(entry: dict[str, Any]) -> ExplainedRegion:
    geometry = shapely.make_valid(shape(entry["geometry"]))
    return ExplainedRegion(str(entry["id"]), str(entry["name"]), str(entry["text"]), geometry)


def _at_home(scene: Scene, archive: Path) -> Scene:
    """The scene with files of a server of this machine as files below ``archive``, where they lie there."""
    assets = {name: _asset_at_home(asset, archive) for name, asset in scene.assets.items()}
    return dataclasses.replace(scene, assets=assets)


def _asset_at_home(asset: SceneAsset, archive: Path) -> SceneAsset:
    parts = urlsplit(asset.href)
    if parts.scheme not in ("http", "https") or not is_this_machine(parts.hostname or ""):
        return asset
    steps = PurePosixPath(unquote(parts.path)).parts[1:]
    path = archive.joinpath(*steps).absolute()
    if not steps or ".." in steps or not path.is_file():
        return asset
    return dataclasses.replace(asset, href=str(path), provider=None, copies=())
