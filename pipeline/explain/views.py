"""Which images a model sees of a sub-region when it is to speak about it: few, and chosen by a stated rule.

A region of no more than :data:`WHOLE_PX` on a side is seen whole, by block means: 20 m from 10 m, or 40. Of a larger
one the model sees an overview, as coarse as it must be, and, with ``full``, its most typical and its most unusual
square: those whose shares of classes differ least and most from the region's.
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
from pipeline.records.grid import SEEN_PX, grid_window, project, region_mask
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.windows import intersection, slices
from spex_core.legend import Legend

VIEW_PX = 256
"""Side of an image that the model sees, at most."""
WHOLE_PX = 768
"""Side of a region that is seen whole."""
SQUARE_PX = 256
"""Side of a square of a larger one, pixels of the map."""
_STEP_PX = 32
"""Sides of images are multiples of it."""
MAX_SQUARES = 400
"""Squares of a region that are compared; of more, every n-th."""
_FILLED = 0.5
"""Share of a square that must be mapped and in the region."""
_ALL = 0.98
"""Share of a region in one zone from which the rest is not worth a word."""

Place = Literal["whole", "part", "typical", "unusual", "overview"]
Depth = Literal["brief", "full"]


@dataclass(frozen=True)
class View:
    """One image of a sub-region."""

    place: Place
    epsg: int
    window: Window
    """Of the zone's grid, a square that begins at a multiple of the factor; may lie partly outside of it."""
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
        depth: ``brief``: one image; ``full``: three of a larger region.
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
    side = max(bounds.height, bounds.width)
    factor = SEEN_PX * math.ceil(side / (SEEN_PX * VIEW_PX))
    around = _around(bounds, factor)
    within: Place = "whole" if part.area >= _ALL * geometry.area else "part"
    if side <= WHOLE_PX:
        return (View(within, grid.epsg, around, factor),)
    views = [View("overview" if within == "whole" else "part", grid.epsg, around, factor)]
    squares = _squares(part, shares, zone.reader, grid, bounds, legend) if depth == "full" else []
    if squares:
        views.append(View("typical", grid.epsg, min(squares, key=lambda square: square[0])[1], SEEN_PX))
    if len(squares) > 1:
        views.append(View("unusual", grid.epsg, max(reversed(squares), key=lambda square: square[0])[1], SEEN_PX))
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
    row, col = (start // SEEN_PX * SEEN_PX for start in (bounds.row, bounds.col))
    corners = [
        (row + down, col + across)
        for down in range(0, bounds.height, SQUARE_PX)
        for across in range(0, bounds.width, SQUARE_PX)
    ]
    found = []
    for row, col in corners[:: math.ceil(len(corners) / MAX_SQUARES)]:
        window = Window(row, col, SQUARE_PX, SQUARE_PX)
        counts = np.bincount(region_codes(geometry, reader, grid, window, legend).ravel(), minlength=256)
        mapped = int(sum(counts[code] for code in legend.codes))
        if mapped < _FILLED * SQUARE_PX**2:
            continue
        found.append((math.fsum(abs(counts[code] / mapped - shares.get(code, 0.0)) for code in legend.codes), window))
    return found


def _around(bounds: Window, factor: int) -> Window:
    """The square of whole pixels of an image around a window, as large as images are made."""
    row, col = bounds.row // factor * factor, bounds.col // factor * factor
    reach = max(bounds.row + bounds.height - row, bounds.col + bounds.width - col)
    side = math.ceil(reach / (_STEP_PX * factor)) * _STEP_PX * factor
    up = (side - (bounds.row + bounds.height - row)) // (2 * factor) * factor
    left = (side - (bounds.col + bounds.width - col)) // (2 * factor) * factor
    return Window(row - up, col - left, side, side)
