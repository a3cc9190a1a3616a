"""Class areas as polygons (GeoParquet, in the map's own system): outlines follow the pixels, so areas are exact.

Smooth outlines are drawn through the pixels' stairs; neighbours keep the borders that they share.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import rasterio
import rasterio.features
import shapely
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window as RasterWindow
from rasterio.windows import bounds as window_bounds

from pipeline.errors import ReadError
from pipeline.outputs.region_tables import write_geoparquet
from spex_core.legend import Legend

_TILE_PX = 2048
"""Pixels are outlined tile by tile; polygons that a tile cuts are joined again."""


SMOOTH_PX = 1.5
"""Smooth outlines leave out corners that are worth a triangle of this side, pixels: the stairs of a slanting border."""


def write_class_polygons(landcover: Path, path: Path, legend: Legend, item: str, *, smooth: bool = False) -> Path:
    """Writes a polygon for every 4-connected area of one class: code, class, area in hectares of the map's grid.

    Memory follows the number of polygons, not the size of the map.

    Args:
        landcover: The map.
        path: The file.
        legend: Names.
        item: Id of the map's item, a column.
        smooth: Simplify the outlines as one coverage (Visvalingam and Whyatt 1993): no gaps, no overlaps, and the edge
            of the map as it is. The column of areas stays that of the pixels.

    Raises:
        ReadError: The map cannot be read.
        OutputError: The folder cannot be written.
    """
    try:
        with rasterio.open(landcover) as source:
            crs = f"EPSG:{source.crs.to_epsg()}"
            pixel_m = abs(source.transform.a)
            found = _polygons(source, legend.nodata)
    except RasterioError as error:
        raise ReadError(f"the map {landcover} cannot be read for its polygons: {error}") from None
    names = {c.code: c.name for c in legend}
    outlined = ((code, shape) for code, shapes in found.items() for shape in shapes)
    rows = sorted(outlined, key=lambda row: (row[0], -row[1].bounds[3], row[1].bounds[0], row[1].wkb))
    shapes = [shape for _, shape in rows]
    columns = {
        "code": pa.array([row[0] for row in rows], pa.uint8()),
        "class": pa.array([names.get(row[0], str(row[0])) for row in rows], pa.string()),
        "area_ha": pa.array([shape.area / 1e4 for shape in shapes], pa.float64()),
        "item": pa.array([item] * len(rows), pa.string()),
    }
    if smooth and shapes:
        shapes = _smooth(shapes, pixel_m)
    write_geoparquet(path, columns, shapes, crs)
    return path


def _smooth(shapes: list[shapely.Polygon], pixel_m: float) -> list[shapely.Polygon]:
    # A point at every corner of a pixel: neighbours have borders in common only where they have the same points.
    with_corners = shapely.segmentize(shapes, 1.0001 * pixel_m)
    whole = shapely.transform(with_corners, lambda xy: np.rint(xy / pixel_m) * pixel_m)
    return list(shapely.coverage_simplify(whole, SMOOTH_PX * pixel_m, simplify_boundary=False))


def _polygons(source: DatasetReader, nodata: int) -> dict[int, list[shapely.Polygon]]:
    whole: dict[int, list[shapely.Polygon]] = defaultdict(list)
    cut: dict[int, list[shapely.Polygon]] = defaultdict(list)
    for window in _windows(source):
        edge = shapely.box(*window_bounds(window, source.transform)).exterior
        values = source.read(1, window=window)
        transform = source.window_transform(window)
        for geometry, code in rasterio.features.shapes(values, values != nodata, connectivity=4, transform=transform):
            shape = shapely.geometry.shape(geometry)
            (cut if shape.exterior.intersects(edge) else whole)[int(code)].append(shape)
    for code, parts in cut.items():
        whole[code] += [part for part in shapely.get_parts(shapely.union_all(parts)) if not part.is_empty]
    # Joining leaves points along the cuts: without them a polygon does not depend on the tiles.
    return {code: list(shapely.normalize(shapely.simplify(shapes, 0.0))) for code, shapes in whole.items()}


def _windows(source: DatasetReader) -> Iterator[RasterWindow]:
    for row in range(0, source.height, _TILE_PX):
        for col in range(0, source.width, _TILE_PX):
            yield RasterWindow(col, row, min(_TILE_PX, source.width - col), min(_TILE_PX, source.height - row))
