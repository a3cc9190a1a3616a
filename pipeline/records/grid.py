"""The output grid of one UTM zone: snapping, pixel windows, GeoBox, and the region as a pixel mask.

Sentinel-2 granules start at multiples of 10 m of the zone's coordinates (Sentinel-2 Products Specification, ESA), so
a grid snapped to multiples of its resolution from the UTM origin shares their pixels: 10 m bands are read unresampled.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import rasterio.features
import shapely
from affine import Affine
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError

from pipeline.errors import RegionError
from pipeline.records import antimeridian
from pipeline.records.plan import Window, ZoneGrid

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

DENSIFY_DEGREES = 0.01
"""Longest edge kept straight. A lon/lat edge of 0.01 degrees bends by less than 0.1 m in UTM below 84 degrees."""
INDEX_CELL_PX = 8
"""Side of the cells over which a map's spectral indices are kept as means."""
SEEN_PX = 2
"""Pixels of a map, per side, under one of the images in which a model sees it when it is to speak about it."""
SNAP_TOLERANCE_PX = 1e-3
"""An edge this close to a pixel border counts as on it: 1 cm of a 10 m pixel, the precision of 7-decimal GeoJSON."""


def zone_grid(geometry: shapely.Geometry, epsg: int, resolution_m: float) -> ZoneGrid:
    """Smallest grid that covers a geometry, snapped outward to multiples of the resolution.

    Args:
        geometry: Area in lon/lat degrees (WGS 84); its edges are straight in lon/lat (RFC 7946).
        epsg: UTM zone of the grid.
        resolution_m: Pixel size, metres.

    Raises:
        RegionError: The geometry is empty or leaves the zone's valid area.
    """
    west, south, east, north = project(geometry, epsg).bounds
    if not all(math.isfinite(v) for v in (west, south, east, north)):
        raise RegionError(f"the region is empty or outside the valid area of EPSG:{epsg}; check its coordinates")
    resolution_m = float(resolution_m)
    left, bottom = (math.floor(v / resolution_m + SNAP_TOLERANCE_PX) for v in (west, south))
    right, top = (math.ceil(v / resolution_m - SNAP_TOLERANCE_PX) for v in (east, north))
    return ZoneGrid(
        epsg=epsg,
        left=left * resolution_m,
        top=top * resolution_m,
        resolution_m=resolution_m,
        height=max(top - bottom, 1),
        width=max(right - left, 1),
    )


def grid_window(grid: ZoneGrid) -> Window:
    """The whole grid as a window."""
    return Window(0, 0, grid.height, grid.width)


def geobox(grid: ZoneGrid, window: Window | None = None) -> GeoBox:
    """A window of the grid (default: all of it) as an odc-geo ``GeoBox``; the window may lie outside the grid."""
    from odc.geo.geobox import GeoBox  # with dask: not for every worker

    window = window or grid_window(grid)
    return GeoBox((window.height, window.width), transform(grid, window), f"EPSG:{grid.epsg}")


def transform(grid: ZoneGrid, window: Window | None = None) -> Affine:
    """Affine from (column, row) of the window (default: the grid) to easting and northing in metres."""
    row, col = (0, 0) if window is None else (window.row, window.col)
    step = grid.resolution_m
    return Affine(step, 0.0, grid.left + col * step, 0.0, -step, grid.top - row * step)


def window_bounds(grid: ZoneGrid, window: Window) -> tuple[float, float, float, float]:
    """West, south, east, north of a window in metres."""
    step = grid.resolution_m
    left, top = grid.left + window.col * step, grid.top - window.row * step
    return left, top - window.height * step, left + window.width * step, top


def project(geometry: shapely.Geometry, epsg: int) -> shapely.Geometry:
    """Lon/lat geometry → metres of a UTM zone, with its edges densified first so that they keep their course.

    Raises:
        RegionError: Unknown EPSG code.
    """
    return _project(geometry, epsg)


@functools.lru_cache(maxsize=32)  # a region is asked for once per block
def _project(geometry: shapely.Geometry, epsg: int) -> shapely.Geometry:
    return shapely.transform(
        shapely.segmentize(geometry, DENSIFY_DEGREES), _transformer(4326, epsg).transform, interleaved=False
    )


def unproject(geometry: shapely.Geometry, epsg: int, max_segment_m: float = 1000.0) -> shapely.Geometry:
    """Geometry in metres of a UTM zone → lon/lat degrees, with its edges densified first.

    Ground that reaches over the antimeridian comes back as one polygon on each side of it.
    """
    lonlat = shapely.transform(
        shapely.segmentize(geometry, max_segment_m), _transformer(epsg, 4326).transform, interleaved=False
    )
    west, _, east, _ = lonlat.bounds
    return antimeridian.split(lonlat) if east - west > 180.0 else lonlat


@functools.lru_cache(maxsize=256)
def _transformer(source: int, target: int) -> Transformer:
    try:
        return Transformer.from_crs(CRS.from_epsg(source), CRS.from_epsg(target), always_xy=True)
    except CRSError as error:
        raise RegionError(f"EPSG:{target if source == 4326 else source} is not a known coordinate system") from error


def region_mask(geometry: shapely.Geometry, grid: ZoneGrid, window: Window | None = None) -> npt.NDArray[np.bool_]:
    """Which pixel centres of a window (default: the grid) lie in a geometry.

    Args:
        geometry: Area in lon/lat degrees (WGS 84).
        grid: Output grid.
        window: Pixels asked for; may lie outside the grid.

    Returns:
        bool ``[height, width]``.
    """
    window = window or grid_window(grid)
    west, south, east, north = window_bounds(grid, window)
    # Only what is near the window is burnt: cost then follows the window, not the length of the region's border.
    pad = 2 * grid.resolution_m
    # Not clip_by_rect: GEOS drops the polygon where its edges run along the rectangle within 1e-10 m.
    near = shapely.box(west - pad, south - pad, east + pad, north + pad)
    area = project(geometry, grid.epsg)
    shapely.prepare(area)
    if shapely.covers(area, near):  # most windows of a map: nothing to burn
        return np.ones((window.height, window.width), dtype=np.bool_)
    part = shapely.intersection(area, near)
    areas = [p for p in shapely.get_parts(part) if p.geom_type in ("Polygon", "MultiPolygon") and not p.is_empty]
    if not areas:
        return np.zeros((window.height, window.width), dtype=np.bool_)
    burnt: npt.NDArray[np.uint8] = rasterio.features.rasterize(
        ((area, 1) for area in areas),
        out_shape=(window.height, window.width),
        transform=transform(grid, window),
        fill=0,
        dtype="uint8",
    )
    return burnt.astype(np.bool_)
