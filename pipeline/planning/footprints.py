"""Footprints of scenes, and how many of them meet a window."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import shapely

from pipeline.errors import CatalogError
from pipeline.planning.scene_order import acquisition_numbers
from pipeline.records.grid import unproject, window_bounds
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.scene import Scene


def footprint(scene: Scene) -> shapely.Geometry:
    """A scene's data footprint, lon/lat.

    Raises:
        CatalogError: The footprint is not a GeoJSON geometry.
    """
    try:
        return _footprint(json.dumps(scene.footprint, sort_keys=True))
    except (shapely.errors.GEOSException, TypeError, ValueError) as error:
        raise CatalogError(f"scene {scene.id}: its footprint is not a GeoJSON geometry: {error}") from error


@functools.lru_cache(maxsize=4096)
def _footprint(text: str) -> shapely.Geometry:
    return shapely.make_valid(shapely.from_geojson(text))


def scenes_per_window(
    grid: ZoneGrid, windows: Sequence[Window], scenes: Sequence[Scene], *, passes: bool = False
) -> npt.NDArray[np.int64]:
    """How many scene footprints meet each window of a grid.

    Args:
        grid: The grid.
        windows: Of it.
        scenes: Of one zone.
        passes: Count the scenes of one pass of a satellite as one.

    Returns:
        int ``[n]``.
    """
    numbers = acquisition_numbers(scenes) if passes else range(len(scenes))
    met = {(window, numbers[scene]) for window, scene in _meeting(grid, windows, scenes)}
    return np.bincount([window for window, _ in met], minlength=len(windows)).astype(np.int64)


def _meeting(grid: ZoneGrid, windows: Sequence[Window], scenes: Sequence[Scene]) -> Iterable[tuple[int, int]]:
    """Positions of a window and of a scene that meet."""
    if not scenes or not windows:
        return ()
    boxes = [unproject(shapely.box(*window_bounds(grid, window)), grid.epsg, 10_000.0) for window in windows]
    pairs = shapely.STRtree([footprint(scene) for scene in scenes]).query(boxes, predicate="intersects")
    return zip(*pairs.tolist(), strict=True)
