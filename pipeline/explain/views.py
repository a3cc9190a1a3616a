"""Which images a model sees of a sub-region when it is to speak about it: few, and chosen by a stated rule.

A region of no more than :data:`VIEW_PX` on a side is seen whole. Of a larger one the model sees its most typical
square of that side and, with ``full``, its most unusual one: those whose shares of classes differ least and most from
the region's. One of at most :data:`COARSEST` times that side is seen as an overview besides, by block means (20 or 30
m from 10 m), as coarse as the model was trained for; a larger one would have to be read a second time as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from pipeline.explain.statistics import LayerReader, ZoneLayers
from pipeline.records.grid import grid_window, project, region_mask
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.windows import intersection, slices
from spex_core.legend import Legend

VIEW_PX = 256
"""Side of an image that the model sees."""
COARSEST = 3
"""Pixels of the map under one of an overview, per side."""
MAX_SQUARES = 400
"""Squares of a region that are compared; of more, every n-th."""
_FILLED = 0.5
"""Share of a square that must be mapped and in the region."""

Place = Literal["whole", "typical", "unusual", "overview"]
Depth = Literal["brief", "full"]


@dataclass(frozen=True)
class View:
    """One image of a sub-region."""

    place: Place
    epsg: int
    window: Window
    """Of the zone's grid, a square; may lie partly outside of it."""
    factor: int
    """Pixels of the map under one of the image, per side."""


def zone_of(geometry: BaseGeometry, zones: Sequence[ZoneLayers]) -> ZoneLayers:
    """The zone that holds most of a region, by area; of equal ones the first."""
    return max(zones, key=lambda zone: shapely.intersection(geometry, zone.geometry).area)


def choose_views(
    geometry: BaseGeometry, shares: Mapping[int, float], zone: ZoneLayers, legend: Legend, depth: Depth
) -> tuple[View, ...]:
    """The images of a region, in the order of their being told; none if nothing of it is on the zone's grid.

    Args:
        geometry: Lon/lat.
        shares: Class code → share of the region's mapped area.
        zone: See :func:`zone_of`.
        legend: Classes of the map.
        depth: ``brief``: one image; ``full``: at most three.
    """
    grid = zone.grid
    part = geometry.intersection(zone.geometry)
    if part.is_empty:
        return ()
    step = grid.resolution_m
    west, south, east, north = project(part, grid.epsg).bounds
    row, row_end = math.floor((grid.top - north) / step), math.ceil((grid.top - south) / step)
    col, col_end = math.floor((west - grid.left) / step), math.ceil((east - grid.left) / step)
    bounds = intersection(Window(row, col, row_end - row, col_end - col), grid_window(grid))
    if bounds is None:
        return ()
    factor = math.ceil(max(bounds.height, bounds.width) / VIEW_PX)
    if factor == 1:
        return (View("whole", grid.epsg, _around(bounds, VIEW_PX), 1),)
    squares = _squares(part, shares, zone.reader, grid, bounds, legend)
    views = []
    if squares:
        views.append(View("typical", grid.epsg, min(squares, key=lambda square: square[0])[1], 1))
        if depth == "full" and len(squares) > 1:
            views.append(View("unusual", grid.epsg, max(reversed(squares), key=lambda square: square[0])[1], 1))
    if factor <= COARSEST and (depth == "full" or not views):
        views.insert(0, View("overview", grid.epsg, _around(bounds, VIEW_PX * factor), factor))
    return tuple(views)


def region_codes(
    geometry: BaseGeometry, reader: LayerReader, grid: ZoneGrid, window: Window, legend: Legend
) -> npt.NDArray[np.uint8]:
    """Class codes of a window, uint8 ``[h, w]``; nodata outside the region (lon/lat) and the grid."""
    codes = np.full((window.height, window.width), legend.nodata, np.uint8)
    if (part := intersection(window, grid_window(grid))) is not None:
        inside = region_mask(geometry, grid, part)
        codes[slices(part, window)] = np.where(inside, reader.read("landcover", part), np.uint8(legend.nodata))
    return codes


def _squares(
    geometry: BaseGeometry,
    shares: Mapping[int, float],
    reader: LayerReader,
    grid: ZoneGrid,
    bounds: Window,
    legend: Legend,
) -> list[tuple[float, Window]]:
    """Squares that lie mostly in the region, row by row, with how much their shares differ from the region's."""
    corners = [
        (bounds.row + down, bounds.col + across)
        for down in range(0, bounds.height, VIEW_PX)
        for across in range(0, bounds.width, VIEW_PX)
    ]
    found = []
    for row, col in corners[:: math.ceil(len(corners) / MAX_SQUARES)]:
        window = Window(row, col, VIEW_PX, VIEW_PX)
        counts = np.bincount(region_codes(geometry, reader, grid, window, legend).ravel(), minlength=256)
        mapped = int(sum(counts[code] for code in legend.codes))
        if mapped < _FILLED * VIEW_PX**2:
            continue
        found.append((math.fsum(abs(counts[code] / mapped - shares.get(code, 0.0)) for code in legend.codes), window))
    return found


def _around(bounds: Window, side: int) -> Window:
    """A square around the middle of a window."""
    return Window(bounds.row - (side - bounds.height) // 2, bounds.col - (side - bounds.width) // 2, side, side)
