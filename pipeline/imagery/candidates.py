"""Which scenes may have pixels in a window, in what order they are taken, and which of them are one pass.

A pass is what one satellite sees of a place within seconds; the archive cuts it into granules that overlap, and where
two zones meet it cuts the same ground once in each. All of them together are one observation of a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from pipeline.records.grid import unproject, window_bounds
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.scene import SCL, Scene
from pipeline.records.utm import northing_shift_m
from pipeline.sources.superseding import SAME_ACQUISITION

FOOTPRINT_SLACK_DEGREES = 0.02
"""Published footprints are simplified; a scene this close to the window is still looked at (2 km)."""


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

    The order is one for the whole grid, so that neighbouring windows agree: from the least cloudy scene on. Within one
    pass, a granule of another zone comes after those of the grid's own zone that lie over the same ground: their pixels
    are the same observation and are copied, its would be resampled.
    """
    order = in_order(scenes, grid.epsg)
    acquisitions = acquisition_numbers(order)
    bounds = window_bounds(grid, window)
    found = [
        Candidate(scene, acquisition, shape(scene.footprint))
        for scene, acquisition in zip(order, acquisitions, strict=True)
        if _overlaps(scene, grid, bounds)
    ]
    return near(found, grid, window)


def in_order(scenes: Sequence[Scene], epsg: int) -> list[Scene]:
    """The order of :func:`candidates_for`: the same for any order of ``scenes``."""
    numbers = acquisition_numbers(scenes)
    native: dict[int, list[Scene]] = {}
    for scene, number in zip(scenes, numbers, strict=True):
        if northing_shift_m(scene.epsg, epsg) is not None:
            native.setdefault(number, []).append(scene)

    def rank(index: int) -> tuple[Any, ...]:
        scene, own = scenes[index], _plain_rank(scenes[index])
        if northing_shift_m(scene.epsg, epsg) is not None:
            return own, False, own
        before = [_plain_rank(n) for n in native.get(numbers[index], ()) if _boxes_meet(n.bbox, scene.bbox)]
        return max([own, *before]), True, own

    return [scenes[index] for index in sorted(range(len(scenes)), key=rank)]


def _plain_rank(scene: Scene) -> tuple[Any, ...]:
    return scene.cloud_cover, scene.datetime, scene.id


def _boxes_meet(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def acquisition_numbers(scenes: Sequence[Scene]) -> list[int]:
    """Numbers the passes of a satellite: neighbouring granules of one pass are one observation of their overlap."""
    by_time = sorted(range(len(scenes)), key=lambda i: (scenes[i].datetime, scenes[i].id))
    numbers = [0] * len(scenes)
    number = 0
    for before, i in zip([None, *by_time], by_time, strict=False):
        if before is not None and scenes[i].datetime - scenes[before].datetime > SAME_ACQUISITION:
            number += 1
        numbers[i] = number
    return numbers


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
