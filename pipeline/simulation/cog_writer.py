"""Cloud-Optimized GeoTIFFs with overviews, written block by block.

GDAL's COG driver can end with no overviews when it is fed piecewise, so a tiled GeoTIFF is completed first.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy.typing as npt
import rasterio
from rasterio import Affine
from rasterio.shutil import copy as copy_raster
from rasterio.windows import Window as RasterWindow

from pipeline.simulation.scene import Frame

TILE_PX = 512


class CogWriter:
    """A tiled GeoTIFF written block by block, then turned into a COG under its final name.

    Args:
        path: Final name.
        frame: The granule, in 10 m pixels.
        gsd_m: Pixel size of this file, 10 or 20.
        dtype: ``"uint8"`` or ``"uint16"``; nodata is 0.
        colormap: Code → RGBA of a class map.
    """

    def __init__(
        self,
        path: Path,
        frame: Frame,
        gsd_m: int,
        dtype: str,
        colormap: dict[int, tuple[int, int, int, int]] | None = None,
    ) -> None:
        self._path, self._step = path, gsd_m // 10
        self._draft = path.with_name(f".{path.name}.draft.tif")
        self._cog = path.with_name(f".{path.name}.cog.tif")
        self._dtype = dtype
        self.width, self.height = frame.width // self._step, frame.height // self._step
        # The file's tile: 512 px, less for small test granules so that they have overviews as well.
        self._tile = TILE_PX if self.width >= 2 * TILE_PX else max(16, min(256, self.width // 2 // 16 * 16))
        self._dataset = rasterio.open(
            self._draft,
            "w",
            driver="GTiff",
            width=self.width,
            height=self.height,
            count=1,
            dtype=dtype,
            crs=f"EPSG:{frame.epsg}",
            transform=Affine(gsd_m, 0, frame.left, 0, -gsd_m, frame.top),
            nodata=0,
            tiled=True,
            blockxsize=256,
            blockysize=256,
        )
        if colormap is not None:  # must stand in the file before its first pixel
            self._dataset.write_colormap(1, colormap)

    def __enter__(self) -> CogWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._dataset.close()
        for leftover in (self._draft, self._cog):
            leftover.unlink(missing_ok=True)

    def write(self, row: int, col: int, image: npt.NDArray[Any]) -> None:
        """Writes one block whose corner is given in 10 m pixels of the granule."""
        window = RasterWindow(col // self._step, row // self._step, image.shape[1], image.shape[0])
        self._dataset.write(image, 1, window=window)

    def finish(self, overviews: str) -> None:
        """Closes the draft and makes the COG.

        Args:
            overviews: Resampling, ``"average"`` for measurements, ``"mode"`` for classes.
        """
        self._dataset.close()
        levels = 1
        while max(self.width, self.height) >> levels > self._tile:
            levels += 1
        options = {
            "COMPRESS": "DEFLATE",
            "LEVEL": 4,
            "PREDICTOR": "YES" if self._dtype == "uint16" else "NO",
            "BLOCKSIZE": self._tile,
            "OVERVIEW_RESAMPLING": overviews.upper(),
            "OVERVIEW_COUNT": levels,
            "BIGTIFF": "IF_SAFER",
        }
        copy_raster(self._draft, self._cog, driver="COG", **options)
        os.replace(self._cog, self._path)
        self._draft.unlink()
