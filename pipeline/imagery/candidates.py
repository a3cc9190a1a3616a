"""Which scenes may have pixels in a window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from pipeline.planning.scene_order import FOOTPRINT_SLACK_DEGREES, acquisition_numbers, compositing_order
from pipeline.records.grid import unproject, window_bounds
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.scene import SCL, Scene
from pipeline.records.utm import northing_shift_m


@dataclass(frozen=True)
class Candidate:
    """A scene that may have pixels in a window."""

    scene: Scene
    acquisition: int
    """Number of its pass."""
    footprint: BaseGeometry
    """Lon/lat."""


def candidates_for(scenes: Sequence[Scene], grid: ZoneGrid, window: Window) -> list[Candidate]:
    """Scenes that may have pixels in a window, in the order in which pixels take them.

    The order is one for the whole grid, so that neighbouring windows agree.
    """
    order = compositing_order(scenes, grid.epsg)
    acquisitions = acquisition_numbers(order)
    bounds = window_bounds(grid, window)
    found = [
        Candidate(scene, acquisition, shape(scene.footprint))
        for scene, acquisition in zip(order, acquisitions, strict=True)
        if _overlaps(scene, grid, bounds)
    ]
    return near(found, grid, window)


def near(candidates: Sequence[Candidate], grid: ZoneGrid, window: Window) -> list[Candidate]:
    """Those that may have pixels in a window: by their raster's extent where it is known, and their footprint."""
    bounds = window_bounds(grid, window)
    span_m = max(window.height, window.width) * grid.resolution_m
    area = shapely.buffer(unproject(shapely.box(*bounds), grid.epsg, span_m / 8), FOOTPRINT_SLACK_DEGREES)
    return [c for c in candidates if _overlaps(c.scene, grid, bounds) and bool(c.footprint.intersects(area))]


def _overlaps(scene: Scene, grid: ZoneGrid, bounds: tuple[float, float, float, float]) -> bool:
    scl, shift = scene.assets[SCL], northing_shift_m(scene.epsg, grid.epsg)
    if shift is None or scl.shape is None or scl.transform is None:
        return True
    step_x, _, left, _, step_y, top = scl.transform
    top += shift
    right, bottom = left + scl.shape[1] * step_x, top + scl.shape[0] * step_y
    return left < bounds[2] and bounds[0] < right and bottom < bounds[3] and bounds[1] < top
