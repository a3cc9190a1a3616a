"""One multi-band reflectance GeoTIFF of any projection → single-band COGs on the UTM grid, and their footprint."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.features
import shapely
import shapely.geometry
from affine import Affine
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetWriter
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds, transform_geom
from rasterio.windows import Window

from pipeline.errors import BadInputError
from pipeline.outputs.cog_writer import TILE_PX, RasterForm, write_cog
from pipeline.records.scene import SCL
from spex_core.bands import SENTINEL2_BANDS
from spex_core.durable_files import put_in_place, remove

DN_SCALE, DN_OFFSET, DN_NODATA = 1e-4, -0.1, 0
"""Sentinel-2 L2A, processing baseline 04.00 and later (ESA): reflectance = DN * 1e-4 - 0.1."""
SCL_NODATA, SCL_UNCLASSIFIED = 0, 7
"""Scene classification values (ESA Sen2Cor): no data, and "unclassified", which no mask removes."""
LEFT_OUT = "-"
"""Name of a band of the file that is not converted."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FOOTPRINT_PX = 512


class SceneFileError(BadInputError):
    """A scene file cannot be read, or what was said about it does not fit it."""


@dataclass(frozen=True)
class SceneFile:
    """One multi-band GeoTIFF and what has to be known about it."""

    path: Path
    item_id: str
    datetime: dt.datetime
    """Acquisition time, UTC."""
    bands: tuple[str, ...]
    """Name of each band of the file, in the file's order; ``"SCL"`` is its scene classification, ``"-"`` left out."""
    scale: float = 1e-4
    """reflectance = value * scale + offset, in the file."""
    offset: float = 0.0
    nodata: float | None = 0.0
    """Value without measurement where the file does not say; ``None``: every value counts."""
    cloud_cover: float = 0.0
    """Percent, as told: the file is not examined for clouds."""

    @property
    def written(self) -> tuple[str, ...]:
        """Names of the reflectance bands that are converted, in the file's order."""
        return tuple(name for name in self.bands if name not in (LEFT_OUT, SCL))


@dataclass(frozen=True)
class SceneGrid:
    """North-up grid in the UTM zone of the scene's centre; its edges are multiples of the resolution."""

    epsg: int
    transform: Affine
    width: int
    height: int
    resolution_m: float


@dataclass(frozen=True)
class WrittenScene:
    """What :func:`write_scene_cogs` wrote."""

    scene: SceneFile
    folder: Path
    grid: SceneGrid
    footprint: dict[str, Any]
    """Outline of the measured pixels: GeoJSON geometry, lon/lat."""


def write_scene_cogs(scene: SceneFile, folder: Path, *, resolution_m: float = 10.0) -> WrittenScene:
    """Writes ``<band>.tif`` for each named band and ``SCL.tif`` into ``folder``.

    The folder appears when all of it is complete; one that is there is replaced.

    Args:
        scene: The file and what is known about it.
        folder: Where the COGs go; its parent is made if missing.
        resolution_m: Pixel size of the output, metres; all bands alike.

    Raises:
        SceneFileError: Unreadable file, no CRS, nothing measured, or band names that do not fit the file.
    """
    _check(scene)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        with rasterio.open(scene.path) as source:
            if source.crs is None:
                raise SceneFileError(f"{scene.path}: no coordinate reference system; set one with gdal_edit.py -a_srs")
            if len(scene.bands) != source.count:
                raise SceneFileError(
                    f"{scene.path}: {source.count} bands in the file, {len(scene.bands)} names given "
                    f"({','.join(scene.bands)}); name each band in order, {LEFT_OUT!r} for those to leave out"
                )
            grid = _utm_grid(source, resolution_m)
            for number, name in enumerate(scene.bands, start=1):
                if name not in (LEFT_OUT, SCL):
                    _write_band(source, number, scene, grid, partial / f"{name}.tif")
            classes = scene.bands.index(SCL) + 1 if SCL in scene.bands else None
            _write_classification(source, classes, [partial / f"{name}.tif" for name in scene.written], grid, partial)
        footprint = _footprint(scene, partial / f"{SCL}.tif")
        remove(folder)
        put_in_place(partial, folder)
    except RasterioError as error:
        raise SceneFileError(f"{scene.path}: cannot be read as a raster: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return WrittenScene(scene, folder, grid, footprint)


def check_id(text: str, what: str) -> str:
    """The text, if it can be an id and a folder name.

    Raises:
        SceneFileError: It cannot.
    """
    if not _ID.fullmatch(text):
        raise SceneFileError(
            f"{what} {text!r} must be letters, digits, '.', '_' or '-', and start with a letter or digit"
        )
    return text


def _check(scene: SceneFile) -> None:
    check_id(scene.item_id, "item id")
    named = scene.written
    unknown = sorted(set(named) - set(SENTINEL2_BANDS))
    if unknown or not named or len(set(named)) != len(named) or scene.bands.count(SCL) > 1:
        raise SceneFileError(
            f"{scene.path}: bands {','.join(scene.bands)} must be distinct names of {' '.join(SENTINEL2_BANDS)} or "
            f"{SCL}, or '-'"
        )
    if scene.scale <= 0:
        raise SceneFileError(f"{scene.path}: scale {scene.scale} must be positive")


def _utm_grid(source: rasterio.DatasetReader, resolution_m: float) -> SceneGrid:
    outline = transform_geom(source.crs, "EPSG:4326", shapely.geometry.mapping(shapely.box(*source.bounds)))
    centre = shapely.geometry.shape(outline).centroid
    epsg = (32700 if centre.y < 0 else 32600) + min(int((centre.x + 180) // 6) + 1, 60)
    # 21 points a side, because the edges of one projection are curves in another.
    west, south, east, north = transform_bounds(source.crs, f"EPSG:{epsg}", *source.bounds, densify_pts=21)
    left, top = np.floor(west / resolution_m + 1e-3) * resolution_m, np.ceil(north / resolution_m - 1e-3) * resolution_m
    return SceneGrid(
        epsg=epsg,
        transform=Affine(resolution_m, 0.0, float(left), 0.0, -resolution_m, float(top)),
        width=max(1, int(np.ceil((east - left) / resolution_m - 1e-3))),
        height=max(1, int(np.ceil((top - south) / resolution_m - 1e-3))),
        resolution_m=resolution_m,
    )


def _write_band(source: rasterio.DatasetReader, number: int, scene: SceneFile, grid: SceneGrid, path: Path) -> None:
    nodata = source.nodatavals[number - 1]
    # float32 while warping: interpolated values keep the digits that the file's own integers would drop.
    with WarpedVRT(
        source, crs=f"EPSG:{grid.epsg}", transform=grid.transform, width=grid.width, height=grid.height,
        resampling=Resampling.bilinear, src_nodata=scene.nodata if nodata is None else nodata,
        nodata=float("nan"), dtype="float32", UNIFIED_SRC_NODATA="NO",  # a band without a value, not a pixel
    ) as warped:  # fmt: skip
        _write_cog(path, grid, "uint16", "average", lambda w: _digital_numbers(warped.read(number, window=w), scene))


def _write_classification(
    source: rasterio.DatasetReader, classes: int | None, bands: Sequence[Path], grid: SceneGrid, folder: Path
) -> None:
    """The file's own scene classification (band number ``classes``) where every band is measured; without one, 7."""
    with contextlib.ExitStack() as files:
        opened = [files.enter_context(rasterio.open(path)) for path in bands]
        warped = files.enter_context(
            WarpedVRT(
                source, crs=f"EPSG:{grid.epsg}", transform=grid.transform, width=grid.width, height=grid.height,
                resampling=Resampling.nearest, UNIFIED_SRC_NODATA="NO",
            )
        )  # fmt: skip

        def measured(window: Window) -> npt.NDArray[Any]:
            everywhere = np.logical_and.reduce([band.read(1, window=window) != DN_NODATA for band in opened])
            known = SCL_UNCLASSIFIED if classes is None else warped.read(classes, window=window)
            return np.where(everywhere, known, SCL_NODATA).astype(np.uint8)

        _write_cog(folder / f"{SCL}.tif", grid, "uint8", "nearest", measured)


def _write_cog(
    path: Path,
    grid: SceneGrid,
    dtype: str,
    overviews: Literal["average", "nearest"],
    block: Callable[[Window], npt.NDArray[Any]],
) -> None:
    """Writes one band block by block; 0 is nodata."""

    def fill(target: DatasetWriter) -> None:
        for row in range(0, grid.height, TILE_PX):
            for col in range(0, grid.width, TILE_PX):
                window = Window(col, row, min(TILE_PX, grid.width - col), min(TILE_PX, grid.height - row))
                target.write(block(window), 1, window=window)

    form = RasterForm(
        height=grid.height, width=grid.width, epsg=grid.epsg, transform=grid.transform,
        dtype=dtype, nodata=0, resampling=overviews,
    )  # fmt: skip
    write_cog(path, form, fill)


def _digital_numbers(values: npt.NDArray[np.float32], scene: SceneFile) -> npt.NDArray[np.uint16]:
    reflectance = values * np.float32(scene.scale) + np.float32(scene.offset)
    numbers = np.rint((reflectance - np.float32(DN_OFFSET)) / np.float32(DN_SCALE)).clip(1, 65535)
    return np.where(np.isfinite(values), numbers, DN_NODATA).astype(np.uint16)


def _footprint(scene: SceneFile, path: Path) -> dict[str, Any]:
    """Outline of the measured pixels, lon/lat GeoJSON, from a decimated mask: small and without speckle."""
    with rasterio.open(path) as band:
        step = max(1, -(-max(band.width, band.height) // _FOOTPRINT_PX))
        shape = (-(-band.height // step), -(-band.width // step))
        measured = band.read(1, out_shape=shape, resampling=Resampling.nearest) != SCL_NODATA
        if not measured.any():
            raise SceneFileError(f"{scene.path}: no pixel has a measurement in every band; check the nodata value")
        scaling = Affine.scale(band.width / shape[1], band.height / shape[0])
        pieces = [
            shapely.geometry.shape(piece)
            for piece, _ in rasterio.features.shapes(
                measured.astype(np.uint8), mask=measured, transform=band.transform @ scaling
            )
        ]
        pixel = abs(band.transform.a) * step
        # Grown and shrunk by two pixels of the mask: small holes and gaps are not worth a vertex each.
        outline = shapely.union_all(pieces).buffer(2 * pixel).buffer(-2 * pixel).simplify(pixel)
        lonlat = shapely.geometry.shape(transform_geom(band.crs, "EPSG:4326", shapely.geometry.mapping(outline)))
    geometry: dict[str, Any] = json.loads(shapely.to_geojson(shapely.set_precision(lonlat, 1e-6)))
    return geometry
