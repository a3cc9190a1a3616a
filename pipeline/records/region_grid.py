"""The automatic sub-regions of an area: cells of a square grid on its map, cut to it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyproj
import shapely
from shapely.geometry.base import BaseGeometry

from pipeline.errors import RegionError
from pipeline.records import antimeridian
from pipeline.records.utm import polygonal

MOST_ACROSS = 100_000
"""Rows or columns of a grid, those without a cell included."""
_Cells = tuple[int, int, int, int]
"""First row, row behind the last, first column, column behind the last."""


def grid_cells(
    geometry: BaseGeometry, epsgs: Sequence[int], grid_km: float, max_regions: int, path: Path
) -> list[tuple[str, BaseGeometry]]:
    """Cuts an area into cells.

    Args:
        geometry: Polygons, lon/lat.
        epsgs: UTM zones that it touches. One: cells are squares of its map. Several: squares of an equal-area
            projection centred on the area.
        grid_km: Side of a cell.
        max_regions: Most cells.
        path: File of the area, for messages.

    Returns:
        Name (column and row: ``A1``) and part of the area, lon/lat, row by row from the north-west.

    Raises:
        RegionError: More cells than that, or an area that cannot be drawn on a map.
    """
    geometry = antimeridian.unwrapped(geometry)
    centre = geometry.centroid
    laea = f"+proj=laea +lat_0={centre.y:.4f} +lon_0={centre.x:.4f} +datum=WGS84 +units=m"
    crs = pyproj.CRS.from_epsg(epsgs[0]) if len(epsgs) == 1 else pyproj.CRS.from_string(laea)
    forward = pyproj.Transformer.from_crs(4326, crs, always_xy=True)
    try:
        projected = shapely.transform(shapely.segmentize(geometry, 0.05), forward.transform, interleaved=False)
        west, south, east, north = projected.bounds
    except (shapely.errors.GEOSException, ValueError) as error:
        raise RegionError(f"{path} cannot be cut into cells: {error}; give it sub-regions of its own") from error
    size = grid_km * 1000.0
    # Nothing of this may overflow: a size may be any number above zero.
    if not max(east - west, north - south) < MOST_ACROSS * size or projected.area / size > 1.5 * max_regions * size:
        raise _too_many(grid_km, path, max_regions)
    xs = _cell_edges(west, east, size)
    ys = -_cell_edges(-north, -south, size)
    shapely.prepare(geometry)
    shapely.prepare(projected)

    def to_lonlat(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lon, lat = forward.transform(x, y, direction="INVERSE")
        return centre.x + (lon - centre.x + 180.0) % 360.0 - 180.0, lat

    cells: list[tuple[str, BaseGeometry]] = []
    touched: list[tuple[int, int]] = []
    for place in _touched(projected, xs, ys, (0, len(ys) - 1, 0, len(xs) - 1), 0.1 * size):
        touched.append(place)
        if len(touched) > 4 * max_regions:  # what lies in one cell touches four at most
            raise _too_many(grid_km, path, max_regions)
    for row, column in sorted(touched):
        box = shapely.segmentize(shapely.box(xs[column], ys[row + 1], xs[column + 1], ys[row]), size / 8)
        lonlat = shapely.transform(box, to_lonlat, interleaved=False)
        if not geometry.intersects(lonlat):
            continue
        part = polygonal(shapely.intersection(geometry, lonlat))
        if part.is_empty or part.area <= 1e-6 * lonlat.area:
            continue
        cells.append((f"{_column_letters(column)}{row + 1}", antimeridian.wrapped(part)))
        if len(cells) > max_regions:
            raise _too_many(grid_km, path, max_regions)
    return cells


def _too_many(grid_km: float, path: Path, max_regions: int) -> RegionError:
    return RegionError(
        f"cells of {grid_km:g} km cut {path} into more than {max_regions} sub-regions; "
        "raise regions.grid_km or regions.max_regions"
    )


def _touched(
    projected: BaseGeometry, xs: np.ndarray, ys: np.ndarray, cells: _Cells, margin: float
) -> Iterator[tuple[int, int]]:
    """Row and column of the cells that an area may touch, found by halves: a few small parts may lie far apart.

    ``margin`` is how far a straight edge on the map may stray from one in longitude and latitude.
    """
    waiting = [cells]
    while waiting:
        top, bottom, left, right = waiting.pop()
        box = shapely.box(xs[left] - margin, ys[bottom] - margin, xs[right] + margin, ys[top] + margin)
        if not projected.intersects(box):
            continue
        if bottom - top == 1 and right - left == 1:
            yield top, left
        elif bottom - top >= right - left:
            middle = (top + bottom) // 2
            waiting += [(top, middle, left, right), (middle, bottom, left, right)]
        else:
            middle = (left + right) // 2
            waiting += [(top, bottom, left, middle), (top, bottom, middle, right)]


def _column_letters(column: int) -> str:
    letters = ""
    column += 1
    while column:
        column, rest = divmod(column - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


def _cell_edges(low: float, high: float, size: float) -> np.ndarray:
    # The last cell takes up to a tenth of a cell more, so that no sliver column is left over. The outer edges are
    # pushed out a little, because a straight edge on the map is not straight in longitude and latitude.
    count = max(1, math.ceil((high - low) / size - 0.1))
    edges = low + size * np.arange(count + 1)
    edges[0] -= 0.05 * size
    edges[-1] = max(edges[-1], high) + 0.05 * size
    return edges
