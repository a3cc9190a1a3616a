"""Overviews of a raster that is mostly empty: each level is made only where pixels are.

GDAL builds a level by going through all of its pixels: minutes for two fields at both ends of a UTM zone. Here a level
is filled tile by tile, from the pixels below that tile, by GDAL's own resampling. What no window touches is never read
and takes no bytes; it holds nodata (0 where there is none).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.windows import Window as RasterWindow

from pipeline.records.plan import Window

BESIDE = ".ovr"
"""GDAL looks for the overviews of ``x.tif`` in ``x.tif.ovr``, and for those of that file in ``x.tif.ovr.ovr``."""


def write_overviews(
    image: Path, windows: Sequence[Window], *, levels: int, decimation: int, tile_px: int, resampling: str
) -> None:
    """Writes the overviews of an image into files beside it, each the overview of the one before.

    Args:
        image: A single-band GeoTIFF with holes.
        windows: Where its pixels are; every other pixel is empty.
        levels: How many overviews.
        decimation: How many pixels of a level become one of the next, along each axis.
        tile_px: Side of a level's tiles.
        resampling: ``mode``, ``average``, or ``nearest``: the upper left of the pixels that become one.

    Raises:
        OSError, RasterioError: A file cannot be read or written.
    """
    below, factor = image, 1
    for _ in range(levels):
        factor *= decimation
        level = below.with_name(below.name + BESIDE)
        _write_level(below, level, tiles_touched(windows, factor * tile_px), decimation, tile_px, resampling)
        below = level


def tiles_touched(windows: Iterable[Window], side_px: int) -> list[tuple[int, int]]:
    """Row and column of the cells of a lattice that windows touch, row by row.

    Args:
        windows: Inside the image.
        side_px: Side of a cell.
    """
    return sorted(
        {
            (row, col)
            for window in windows
            for row in range(window.row // side_px, (window.row + window.height - 1) // side_px + 1)
            for col in range(window.col // side_px, (window.col + window.width - 1) // side_px + 1)
        }
    )


def _write_level(
    below: Path, level: Path, tiles: Sequence[tuple[int, int]], decimation: int, tile_px: int, resampling: str
) -> None:
    with rasterio.open(below) as source:
        profile = {
            "driver": "GTiff",
            "dtype": source.dtypes[0],
            "count": source.count,
            "height": -(-source.height // decimation),
            "width": -(-source.width // decimation),
            "nodata": source.nodata,
            "transform": source.transform * Affine.scale(decimation),
            "tiled": True,
            "blockxsize": tile_px,
            "blockysize": tile_px,
            "bigtiff": "IF_SAFER",
            "sparse_ok": True,
        }
        with rasterio.open(level, "w", **profile) as target:
            for row, col in tiles:
                top, left = row * tile_px, col * tile_px
                height, width = min(tile_px, target.height - top), min(tile_px, target.width - left)
                window = Window(top, left, height, width)
                values = _reduced(source, window, decimation, resampling)
                target.write(values, window=RasterWindow(left, top, width, height))


def _reduced(source: DatasetReader, window: Window, decimation: int, resampling: str) -> npt.NDArray[np.generic]:
    """The pixels of a window of the next level, ``[bands, h, w]``."""
    top, left = window.row * decimation, window.col * decimation
    height = min(window.height * decimation, source.height - top)
    width = min(window.width * decimation, source.width - left)
    below = RasterWindow(left, top, width, height)
    values: npt.NDArray[np.generic]
    if resampling == "nearest":  # where GDAL reads (not builds an overview) it would take the middle
        values = source.read(window=below)[:, ::decimation, ::decimation]
    else:
        shape = (source.count, window.height, window.width)
        values = source.read(window=below, out_shape=shape, resampling=Resampling[resampling])
    return values
