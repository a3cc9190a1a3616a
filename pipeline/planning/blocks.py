"""From config, region and scenes to the plan: grids, tiles, blocks, who needs whom.

Everything here is a pure function of its arguments. The plan's identity, file and cost estimate have modules of their
own and are offered here too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import shapely

from pipeline.errors import CatalogError, ConfigError, NoScenesError, RegionError
from pipeline.machine.collection import collection_paused
from pipeline.planning.estimate import PlanSummary, summarise
from pipeline.planning.identity import coarse_footprint, run_id
from pipeline.planning.lattice import contributing_window, lattice_origin, lattice_shape, lattice_tile, union_window
from pipeline.planning.plan_file import read_plan, write_plan
from pipeline.planning.software import software_versions
from pipeline.planning.zones import zone_areas
from pipeline.records.grid import project, unproject, window_bounds, zone_grid
from pipeline.records.plan import Block, MapPlan, Tile, Window, ZoneGrid, ZonePlan
from pipeline.records.region import Region
from pipeline.records.scene import Scene
from pipeline.settings.model import device_kind
from pipeline.settings.run_file import RunConfig, TilingConfig
from spex_core.legend import Legend

MOST_TILES = 5_000_000
"""Of the grid of one zone, without regard to the area; a whole UTM zone at 10 m has 300,000 of the default size."""

__all__ = ["PlanSummary", "build_plan", "plan_blocks", "read_plan", "software_versions", "summarise", "write_plan"]


def build_plan(
    config: RunConfig,
    region: Region,
    scenes: Iterable[Scene],
    *,
    model_fingerprint: str,
    legend: Legend,
    software: Mapping[str, str] | None = None,
) -> MapPlan:
    """Decides everything a run will do.

    The same inputs, scenes in any order, give an equal plan.

    Args:
        config: The run file.
        region: The area to map.
        scenes: What the search found; each id once.
        model_fingerprint: Identity of the weights and settings of the model.
        legend: Classes of the map.
        software: Name → version; default: what is installed.

    Raises:
        NoScenesError: There is no scene at all.
        CatalogError: Two different scenes have the same id.
        RegionError: The region covers no pixel.
        ConfigError: The resolution makes a map of more than :data:`MOST_TILES` tiles.
    """
    ordered = _ordered(scenes)
    if not ordered:
        raise NoScenesError("no scene to map: widen the dates, the cloud limit or the region")
    kind = device_kind(config.model, config.compute.gpus_per_actor)
    versions = dict(sorted((software_versions(kind) if software is None else software).items()))
    areas = zone_areas(region, ordered)
    zones = tuple(plan for epsg, area in areas.items() if (plan := _plan_zone(epsg, area, ordered, config)))
    if not zones:
        raise RegionError("the region covers no pixel of any UTM zone; check its coordinates (lon/lat, WGS 84)")
    return MapPlan(
        run_id=run_id(config, areas, ordered, zones, model_fingerprint, legend, versions),
        config=config.model_dump(mode="json"),
        scenes=ordered,
        zones=zones,
        software=versions,
    )


def _ordered(scenes: Iterable[Scene]) -> tuple[Scene, ...]:
    # Through JSON and back, so that the plan of a fresh search equals the plan read from its file.
    by_id: dict[str, Scene] = {}
    for scene in scenes:
        plain = Scene.from_dict(json.loads(json.dumps(scene.to_dict())))
        if by_id.setdefault(plain.id, plain) != plain:
            raise CatalogError(f"two different scenes are called {plain.id!r}; restrict 'source' to one collection")
    return tuple(sorted(by_id.values(), key=lambda scene: (scene.datetime, scene.id)))


# --- one zone -----------------------------------------------------------------------------------------------------


def _plan_zone(epsg: int, part: shapely.Geometry, scenes: Sequence[Scene], config: RunConfig) -> ZonePlan | None:
    grid = zone_grid(part, epsg, config.tiling.resolution_m)
    rows, columns = lattice_shape(grid, config.tiling)
    if rows * columns > MOST_TILES:
        raise ConfigError(
            f"tiling.resolution_m = {config.tiling.resolution_m:g} makes a map of {grid.width} x {grid.height} px in "
            f"EPSG:{epsg}, more than {MOST_TILES} tiles: give a coarser resolution, larger tiles or a smaller region"
        )
    clip = config.publish.clip
    whole = Window(0, 0, grid.height, grid.width)
    mapped = part if clip else unproject(shapely.box(*window_bounds(grid, whole)), epsg)
    blocks = plan_blocks(grid, config.tiling, project(part, epsg) if clip else None)
    if not blocks:
        return None
    scene_ids = tuple(scene.id for scene in scenes if shapely.intersects(coarse_footprint(scene), mapped))
    return ZonePlan(grid, blocks, scene_ids)


@collection_paused()
def plan_blocks(grid: ZoneGrid, tiling: TilingConfig, area: shapely.Geometry | None) -> tuple[Block, ...]:
    """Cuts a grid into output blocks and gives each its tiles.

    Blocks lie on the ``block_px`` lattice from the grid's upper-left pixel. With an ``area``, only blocks that meet it
    are planned, and only tiles whose weight reaches a planned block inside the area. A tile belongs to the block that
    would hold the upper-left pixel of its core if the lattice began with the grid (it begins less than 32 px before);
    where that one is not planned, to the first planned block that it reaches.
    So the weights of the planned tiles sum to one at every pixel of the area (everywhere, without an area).

    Args:
        grid: The zone's grid.
        tiling: Sizes in px.
        area: What is mapped, in metres of the grid's zone; ``None``: the whole grid.

    Returns:
        Blocks in row-major order; ``index`` is the position in this tuple.
    """
    windows = _planned_windows(grid, tiling, area)
    owned: dict[int, list[Tile]] = {index: [] for index in range(len(windows))}
    needs: dict[int, set[int]] = {index: {index} for index in owned}
    origin = lattice_origin(grid, tiling)
    at = {(window.row // tiling.block_px, window.col // tiling.block_px): i for i, window in enumerate(windows)}
    for tile, reach in _reaching_tiles(grid, tiling, area):
        touched = [index for cell in _cells(reach, tiling.block_px) if (index := at.get(cell)) is not None]
        if not touched:
            continue
        halo = tiling.overlap_px // 2
        core = (tile.window.row + halo - origin[0], tile.window.col + halo - origin[1])
        owner = at.get((core[0] // tiling.block_px, core[1] // tiling.block_px), touched[0])
        owned[owner].append(tile)
        for index in touched:
            needs[index].add(owner)
    return tuple(
        Block(
            index=index,
            window=window,
            read_window=union_window([window, *(tile.window for tile in owned[index])]),
            tiles=tuple(owned[index]),
            needs=tuple(sorted(needs[index])),
        )
        for index, window in enumerate(windows)
    )


def _planned_windows(grid: ZoneGrid, tiling: TilingConfig, area: shapely.Geometry | None) -> list[Window]:
    size = tiling.block_px
    windows = [
        Window(row, col, min(size, grid.height - row), min(size, grid.width - col))
        for row in range(0, grid.height, size)
        for col in range(0, grid.width, size)
    ]
    return [w for w, hit in zip(windows, _meets(windows, grid, area), strict=True) if hit]


def _reaching_tiles(
    grid: ZoneGrid, tiling: TilingConfig, area: shapely.Geometry | None
) -> Iterable[tuple[Tile, Window]]:
    """Tiles whose weight reaches the area, row by row, each with the window where it weighs."""
    rows, cols = lattice_shape(grid, tiling)
    for row in range(rows):  # one row at a time: a zone can have a million tiles
        tiles = [lattice_tile(row, col, grid, tiling) for col in range(cols)]
        reaches = [contributing_window(tile, grid, tiling) for tile in tiles]
        for tile, reach, hit in zip(tiles, reaches, _meets(reaches, grid, area), strict=True):
            if hit:
                yield tile, reach


def _meets(windows: Sequence[Window], grid: ZoneGrid, area: shapely.Geometry | None) -> Any:
    """bool ``[n]``: which windows share ground with the area."""
    if area is None:
        return np.ones(len(windows), dtype=bool)
    shapely.prepare(area)
    return shapely.intersects(area, shapely.box(*np.array([window_bounds(grid, w) for w in windows]).T))


def _cells(window: Window, size: int) -> list[tuple[int, int]]:
    """Cells of a ``size`` px lattice that a window touches, row by row."""
    return [
        (row, col)
        for row in range(window.row // size, (window.row + window.height - 1) // size + 1)
        for col in range(window.col // size, (window.col + window.width - 1) // size + 1)
    ]
