"""Where chips come from: an area of a STAC catalog in one UTM zone, or one local image. Each knows its grid.

Both give labels and imagery of a pixel window; nothing is read before it is asked for.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.errors
import shapely
from rasterio.windows import Window as RasterWindow

from pipeline.errors import BadInputError, ReadError
from pipeline.imagery.composite import read_composite
from pipeline.imagery.gdal_settings import gdal_options
from pipeline.imagery.raster_formats import opened_local
from pipeline.planning.footprints import footprint
from pipeline.records.grid import (
    geobox,
    project,
    region_mask,
    unproject,
    window_bounds,
    zone_grid,
)
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.scene import Scene
from pipeline.records.windows import intersection, slices
from pipeline.settings.run_file import CompositeConfig
from pipeline.sources.hrefs import AssetDoor
from pipeline.spie.config import AreaConfig, ChipConfig, LocalConfig
from pipeline.spie.labels import Codes, LabelFile, LabelSource
from pipeline.spie.sampling import Place
from spex_core.bands import BAND_INDEX, SENTINEL2_BANDS

_ONE_AT_A_TIME = threading.Lock()
"""rasterio hushes a warning of its own while it burns polygons, by means that threads undo for each other."""


@dataclass(frozen=True)
class Imagery:
    """The image of one chip."""

    reflectance: npt.NDArray[np.float32]
    """float32 [10, h, w], surface reflectance, order of ``SENTINEL2_BANDS``; NaN: not clearly seen, missing band."""
    observed: npt.NDArray[np.bool_]
    """bool [h, w]: a clear observation in every band that the source has."""
    items: tuple[str, ...]
    """Ids of the scenes (or the image file's name) that gave pixels."""
    dates: tuple[str, ...]
    """ISO dates of these, ascending, each once; empty where not known."""
    unread: tuple[str, ...] = ()
    """Ids of scenes that could not be read."""


class Site(Protocol):
    """A source of chips on one pixel grid."""

    collection: str
    """Of the imagery; for people."""
    grid: ZoneGrid
    licence: str
    """Of the imagery."""
    labels: LabelSource

    def places(self) -> Iterator[tuple[Place, Window]]:
        """Where chips could be cut; their classes are not known yet."""
        ...

    def read_labels(self, window: Window) -> tuple[Codes, tuple[LabelFile, ...]]:
        """Legend codes, uint8 [h, w], and the files that they come from.

        Raises:
            ReadError: A file cannot be read.
        """
        ...

    def read_imagery(self, window: Window) -> Imagery:
        """The image of a window.

        Raises:
            ReadError: A file cannot be read, and nothing can stand in for it.
        """
        ...


class AreaSite:
    """One area in one UTM zone. Chips lie on multiples of their size from the zone's origin, whatever the area is.

    So areas that overlap share their places, and cells hold whole chips.
    """

    def __init__(
        self,
        area: AreaConfig,
        part: shapely.Geometry,
        epsg: int,
        scenes: tuple[Scene, ...],
        labels: LabelSource,
        composite: CompositeConfig,
        chips: ChipConfig,
        licence: str,
        door: AssetDoor | None = None,
    ) -> None:
        self._area, self._part, self._composite, self._chips = area, part, composite, chips
        self._door = door
        self.grid = zone_grid(part, epsg, chips.resolution_m)
        self.scenes = scenes
        self.labels = labels
        self.licence = licence
        self.collection = scenes[0].collection or scenes[0].provider

    @cached_property
    def _dates(self) -> dict[str, str]:
        return {scene.id: scene.datetime.date().isoformat() for scene in self.scenes}

    def places(self) -> Iterator[tuple[Place, Window]]:
        """Lattice squares that meet the area and the footprint of a scene."""
        grid, size, per_cell = self.grid, self._chips.size_px, self._chips.cell_chips
        # Pixel indices from the zone's origin; rows grow southwards.
        first_row, first_col = round(-grid.top / grid.resolution_m), round(grid.left / grid.resolution_m)
        seen = shapely.union_all([footprint(scene) for scene in self.scenes])
        area = project(shapely.intersection(self._part, seen), grid.epsg)
        shapely.prepare(area)
        for row in range(first_row // size, -(-(first_row + grid.height) // size)):
            for col in range(first_col // size, -(-(first_col + grid.width) // size)):
                window = Window(row * size - first_row, col * size - first_col, size, size)
                bounds = window_bounds(grid, window)
                box = shapely.box(*bounds)
                if not area.intersects(box) or area.touches(box):
                    continue
                where = f"{grid.epsg}-{_plain(bounds[0])}-{_plain(bounds[3])}"
                key = f"{where}-{self._area.start:%Y%m%d}-{self._area.end:%Y%m%d}"
                cell = f"{grid.epsg}:{col // per_cell}:{row // per_cell}"
                yield Place(key, cell, bounds, grid.epsg, {}), window

    def read_labels(self, window: Window) -> tuple[Codes, tuple[LabelFile, ...]]:
        """See :meth:`Site.read_labels`; pixels outside the area are not labelled."""
        codes, files = self.labels.read(self.grid, window)
        with _ONE_AT_A_TIME:
            inside = region_mask(self._part, self.grid, window)
        codes[~inside] = self.labels.unlabelled
        return codes, files

    def read_imagery(self, window: Window) -> Imagery:
        """See :meth:`Site.read_imagery`: the composite of a run over the same scenes."""
        composite = read_composite(self.scenes, self.grid, window, self._composite, self._door)
        if composite.unread and not composite.valid_count.any():
            raise ReadError("; ".join(composite.problems))
        return Imagery(
            reflectance=composite.reflectance,
            observed=composite.valid_count > 0,
            items=composite.used,
            dates=tuple(sorted({self._dates[item] for item in composite.used})),
            unread=composite.unread,
        )


class LocalSite:
    """One local image with its label raster. Chips start at the image's corner; what hangs over its edge is missing."""

    def __init__(
        self, pair: LocalConfig, number: int, image: Path, grid: ZoneGrid, labels: LabelSource, chips: ChipConfig
    ) -> None:
        self._pair, self._number, self._chips = pair, number, chips
        self.path = image
        self.labels = labels
        self.licence = pair.licence
        self.collection = "local"
        self.grid = grid

    def places(self) -> Iterator[tuple[Place, Window]]:
        """The image cut into chips. An image no larger than a cell lies in one cell, that of its centre."""
        grid, size = self.grid, self._chips.size_px
        side_m = self._chips.cell_chips * size * grid.resolution_m
        whole = window_bounds(grid, Window(0, 0, grid.height, grid.width))
        small = max(grid.height, grid.width) <= self._chips.cell_chips * size
        for row in range(0, grid.height, size):
            for col in range(0, grid.width, size):
                window = Window(row, col, size, size)
                bounds = window_bounds(grid, window)
                west, south, east, north = whole if small else bounds
                x, y = math.floor((west + east) / 2 / side_m), math.floor((south + north) / 2 / side_m)
                key = f"local-{self._number:05d}-{row // size:05d}-{col // size:05d}"
                yield Place(key, f"{grid.epsg}:{side_m:g}:{x}:{y}", bounds, grid.epsg, {}), window

    def read_labels(self, window: Window) -> tuple[Codes, tuple[LabelFile, ...]]:
        """See :meth:`Site.read_labels`."""
        return self.labels.read(self.grid, window)

    def read_imagery(self, window: Window) -> Imagery:
        """See :meth:`Site.read_imagery`."""
        pair = self._pair
        named = [(BAND_INDEX[name], i + 1) for i, name in enumerate(pair.bands) if name != "-"]
        reflectance = np.full((len(SENTINEL2_BANDS), window.height, window.width), np.nan, np.float32)
        inside = intersection(window, Window(0, 0, self.grid.height, self.grid.width))
        if inside is not None:
            reflectance[([channel for channel, _ in named], *slices(inside, window))] = self._read(
                [number for _, number in named], inside
            )
        present = reflectance[[channel for channel, _ in named]]
        observed: npt.NDArray[np.bool_] = np.asarray(np.isfinite(present).all(axis=0))
        reflectance[:, ~observed] = np.nan
        dates = (pair.date.isoformat(),) if pair.date else ()
        return Imagery(reflectance, observed, (self.path.name,), dates)

    def _read(self, numbers: list[int], window: Window) -> npt.NDArray[np.float32]:
        try:
            with rasterio.Env(**gdal_options(str(self.path))), opened_local(self.path) as ds:
                area = RasterWindow(window.col, window.row, window.width, window.height)
                raw = ds.read(numbers, window=area)
                masks = ds.read_masks(numbers, window=area)
        except rasterio.errors.RasterioError as error:
            raise ReadError(f"{self.path} cannot be read: {error}") from None
        values: npt.NDArray[np.float32] = raw.astype(np.float32) * np.float32(self._pair.scale)
        values += np.float32(self._pair.offset)
        values[masks == 0] = np.nan
        if self._pair.nodata is not None:
            values[raw == self._pair.nodata] = np.nan
        values[~np.isfinite(values)] = np.nan
        return values


def lonlat_bounds(place: Place) -> tuple[float, float, float, float]:
    """West, south, east, north of a place in degrees, six decimals."""
    west, south, east, north = unproject(shapely.box(*place.bounds), place.epsg).bounds
    return round(west, 6), round(south, 6), round(east, 6), round(north, 6)


def local_label_file(label: Path, grid: ZoneGrid, pair: LocalConfig) -> LabelFile:
    """A local label raster as a file that may lie anywhere on the image."""
    outline = unproject(shapely.box(*geobox(grid).boundingbox.bbox), grid.epsg)
    date = pair.date.isoformat() if pair.date else ""
    return LabelFile(label.name, str(label), outline, date, pair.licence)


def image_grid(path: Path, pair: LocalConfig) -> ZoneGrid:
    """The pixel grid of a local image.

    Raises:
        BadInputError: Not readable, not in metres of an EPSG system, not north-up, or of another number of bands.
    """
    try:
        with rasterio.Env(**gdal_options(str(path))), opened_local(path) as ds:
            transform, crs, count, shape = ds.transform, ds.crs, ds.count, ds.shape
    except (rasterio.errors.RasterioError, ReadError) as error:
        raise BadInputError(f"image {path} cannot be read: {error}") from None
    epsg = crs.to_epsg() if crs is not None and crs.is_projected and crs.linear_units_factor[1] == 1.0 else None
    if epsg is None:
        raise BadInputError(f"image {path} is not in a projected system in metres with an EPSG code; warp it first")
    north_up = transform.b == transform.d == 0 and transform.a > 0 and math.isclose(transform.a, -transform.e)
    if not north_up:
        raise BadInputError(f"image {path} has pixels that are not square or not north-up; warp it first")
    if count != len(pair.bands):
        raise BadInputError(
            f"image {path} has {count} bands, local.bands names {len(pair.bands)}; name each in order, - for others"
        )
    return ZoneGrid(epsg, transform.c, transform.f, transform.a, *shape)


def _plain(metres: float) -> str:
    return f"{metres:.0f}".replace("-", "m")
