"""From a survey to labelled pixels of a run's own grids, and to the windows that hold them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from pipeline.adaptation.survey import LabelledPlace
from pipeline.records.grid import project, region_mask, window_bounds
from pipeline.records.plan import Window, ZoneGrid

PIXELS_PER_POLYGON = 25
"""More pixels of one polygon say little that is new."""
LARGEST_POLYGON_PX = 4096
"""Side of a polygon's box; a larger one is cut at it."""
HALO_PX = 32
WINDOW_PX = 256
"""Side of what is read around pixels, where tiles are not smaller."""


@dataclass(frozen=True)
class LabelledPixel:
    """One pixel of a zone's grid."""

    zone: int
    """Position in the plan."""
    row: int
    col: int
    label: int
    """Position in the legend."""
    feature: int
    """Position in the survey."""
    x: float
    """Of its centre, metres of the zone."""
    y: float


def labelled_pixels(
    places: Sequence[LabelledPlace],
    labels: Mapping[str, int],
    grids: Sequence[ZoneGrid],
    areas: Sequence[BaseGeometry],
    left_out: Counter[str],
) -> list[LabelledPixel]:
    """Pixels that a survey labels, in its order; each pixel once.

    Args:
        places: Of the survey.
        labels: Class name → position in the legend.
        grids: Of the plan's zones.
        areas: What is mapped in each, lon/lat.
        left_out: Is told of places outside and of pixels with two classes.
    """
    found: list[LabelledPixel] = []
    for area in areas:
        shapely.prepare(area)
    for number, place in enumerate(places):
        label, here = labels[place.name], False
        for zone, (grid, area) in enumerate(zip(grids, areas, strict=True)):
            if not shapely.intersects(area, place.geometry):
                continue
            for row, col in _pixels(shapely.intersection(place.geometry, area), grid):
                here = True
                x, y = grid.left + (col + 0.5) * grid.resolution_m, grid.top - (row + 0.5) * grid.resolution_m
                found.append(LabelledPixel(zone, row, col, label, number, x, y))
        left_out["outside the run's region"] += not here
    by_place: dict[tuple[int, int, int], list[LabelledPixel]] = {}
    for pixel in found:
        by_place.setdefault((pixel.zone, pixel.row, pixel.col), []).append(pixel)
    agreed = [pixels for pixels in by_place.values() if len({pixel.label for pixel in pixels}) == 1]
    left_out["in one pixel with another of the same class"] += sum(len(pixels) - 1 for pixels in agreed)
    left_out["in one pixel with another of a different class"] += sum(
        len(pixels) for pixels in by_place.values() if len({pixel.label for pixel in pixels}) > 1
    )
    for reason in [reason for reason, count in left_out.items() if not count]:
        del left_out[reason]
    return [pixels[0] for pixels in agreed]


def _pixels(geometry: BaseGeometry, grid: ZoneGrid) -> list[tuple[int, int]]:
    """Row and column of the pixels of a place: those of points, and some spread over polygons."""
    step, found = grid.resolution_m, []

    def at(x: float, y: float) -> tuple[int, int]:
        return int((grid.top - y) // step), int((x - grid.left) // step)

    for part in shapely.get_parts(geometry):
        projected = project(part, grid.epsg)
        if part.geom_type == "Point":
            found.append(at(projected.x, projected.y))
        elif part.geom_type == "Polygon" and not part.is_empty:
            west, south, east, north = projected.bounds
            (top, left), (bottom, right) = at(west, north), at(east, south)
            height = min(bottom - top + 1, LARGEST_POLYGON_PX)
            width = min(right - left + 1, LARGEST_POLYGON_PX)
            rows, cols = np.nonzero(region_mask(part, grid, Window(top, left, height, width)))
            if len(rows):
                chosen = np.unique(np.linspace(0, len(rows) - 1, min(PIXELS_PER_POLYGON, len(rows))).round())
                found += [(top + int(rows[i]), left + int(cols[i])) for i in chosen.astype(int)]
            else:  # smaller than a pixel
                centre = shapely.point_on_surface(projected)
                found.append(at(centre.x, centre.y))
    return [(row, col) for row, col in found if 0 <= row < grid.height and 0 <= col < grid.width]


def window_side(tile_px: int) -> tuple[int, int]:
    """Side and halo of the windows that are read, px; no larger than the run's tiles."""
    side = min(WINDOW_PX, tile_px)
    return side, min(HALO_PX, side // 4)


def windows_of(
    pixels: Sequence[LabelledPixel], tile_px: int, origins: Sequence[tuple[int, int]] = ()
) -> Iterator[tuple[int, Window, list[int]]]:
    """Zone, window and positions of the pixels whose surroundings it holds; zone by zone, row by row.

    Pixels that are near each other share a window, so what is read is bounded by the survey's extent and its number.

    Args:
        pixels: What is looked at.
        tile_px: Of the run.
        origins: Of each zone, where its lattice of tiles begins: the head must see pixels in the groups in which the
            map shows them (docs/decisions/0055). Default: with the grid.
    """
    side, halo = window_side(tile_px)
    stride = side - 2 * halo
    cells: dict[tuple[int, int, int], list[int]] = {}
    for position, pixel in enumerate(pixels):
        top, left = origins[pixel.zone] if origins else (0, 0)
        cell = (pixel.zone, (pixel.row - top) // stride, (pixel.col - left) // stride)
        cells.setdefault(cell, []).append(position)
    for (zone, row, col), positions in sorted(cells.items()):
        top, left = origins[zone] if origins else (0, 0)
        yield zone, Window(top + row * stride - halo, left + col * stride - halo, side, side), positions


def block_side(xy: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], pixel_m: float) -> float:
    """Side of the spatial blocks of a validation, metres: the largest at which most classes lie in several blocks.

    Args:
        xy: ``[N, 2]`` metres.
        labels: ``[N]``.
        pixel_m: Size of a pixel.
    """
    sides = [step * pixel_m for step in (1024, 512, 256, 128, 64, 32, 16, 8)]
    for side in sides:
        blocks = block_ids(xy, side)
        each = [len(np.unique(blocks[labels == label])) for label in np.unique(labels)]
        if len(np.unique(blocks)) >= 10 and np.mean([count >= 4 for count in each]) >= 0.75:
            return side
    return sides[-1]


def block_ids(xy: npt.NDArray[np.float64], side: float) -> npt.NDArray[np.int64]:
    """Number of the square block that each position lies in, ``[N]``."""
    cells = np.floor(xy / side).astype(np.int64)
    return np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def domain_windows(grid: ZoneGrid, area: BaseGeometry, tile_px: int, most: int) -> list[Window]:
    """Windows spread evenly over what is mapped of a zone, at most so many."""
    side, _ = window_side(tile_px)
    shape = project(area, grid.epsg)
    shapely.prepare(shape)
    windows = [
        Window(row, col, side, side)
        for row in range(0, max(grid.height - side // 2, 1), side)
        for col in range(0, max(grid.width - side // 2, 1), side)
    ]
    inside = shapely.intersects(shape, shapely.box(*np.array([window_bounds(grid, w) for w in windows]).T))
    there = [window for window, hit in zip(windows, inside, strict=True) if hit]
    if not there:
        return []
    chosen = np.unique(np.linspace(0, len(there) - 1, min(most, len(there))).round().astype(int))
    return [there[i] for i in chosen]
