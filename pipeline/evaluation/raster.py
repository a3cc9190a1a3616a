"""One image with labels beside it, cut into overlapping tiles; each pixel is compared once, in the core of a tile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import Resampling
from rasterio.features import rasterize
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from pipeline.chips.polygons import read_polygons
from pipeline.errors import ChipError, ConfigError
from pipeline.evaluation.chips import LabelledChip, Source
from pipeline.evaluation.config import RasterConfig
from spex_core.bands import BAND_INDEX, BANDS, LANDSAT_BANDS, band_slots
from spex_core.legend import Legend

Channels = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Span:
    """One tile along one axis, px."""

    start: int
    stop: int
    core_start: int
    """The core starts and stops in the middle of the overlap with the neighbour."""
    core_stop: int


def spans(length: int, tile_px: int, overlap_px: int) -> list[Span]:
    """Tiles that cover an axis: of ``tile_px``, the last one moved back to end with the image.

    Args:
        length: Of the axis, px.
        tile_px: Side of a tile.
        overlap_px: At least so much do neighbours share.
    """
    if length <= tile_px:
        return [Span(0, length, 0, length)]
    starts = [*range(0, length - tile_px, tile_px - overlap_px), length - tile_px]
    middles = [0, *((a + tile_px + b) // 2 for a, b in pairwise(starts)), length]
    return [
        Span(start, start + tile_px, low, high) for start, (low, high) in zip(starts, pairwise(middles), strict=True)
    ]


def open_raster(config: RasterConfig, asked: Legend, classes: Legend) -> Source:
    """An image and its labels.

    Args:
        config: Which files.
        asked: Classes of a label raster without ``label_codes``.
        classes: Compared classes, whose names the label files have.

    Raises:
        ChipError: A file cannot be read, or the labels lie outside the image.
        ConfigError: A label is no compared class.
    """
    names = list(config.labels) if isinstance(config.labels, dict) else list(config.label_codes or {})
    if names:
        unknown = [name for name in names if name not in classes.names]
        if unknown:
            raise ConfigError(
                f"labels {', '.join(unknown)}: {', '.join(classes.names)} are compared; name the labels under 'groups'"
            )
        chosen = [classes.classes[classes.names.index(name)] for name in names]
        legend = replace(classes, classes=tuple(chosen))
    else:
        legend = asked
    try:
        with rasterio.open(config.image) as image:
            if image.count != len(config.image_bands):
                raise ConfigError(
                    f"{config.image} has {image.count} bands, but image_bands names {len(config.image_bands)}"
                )
            polygons = config.labels if isinstance(config.labels, dict) else None
            labels = _codes(config, legend, image) if polygons is None else _polygons(polygons, image)
    except rasterio.errors.RasterioError as error:
        raise ChipError(f"{config.image} or its labels cannot be read: {error}") from None
    if not (labels >= 0).any():
        raise ChipError(f"none of the labels lies on {config.image}: is its coordinate system right?")
    sensor = BANDS
    if config.sensor == "landsat":
        slots, bands = band_slots(LANDSAT_BANDS)
        own = {slot: replace(band, name=BANDS[slot].name) for slot, band in zip(slots, bands, strict=True)}
        sensor = tuple(own.get(slot, band) for slot, band in enumerate(BANDS))
    return Source(config.image.name, _RasterChips(config, labels), legend, sensor, config.gsd_m)


class _RasterChips:
    def __init__(self, config: RasterConfig, labels: Channels) -> None:
        self._config, self._labels = config, labels
        rows, columns = (spans(side, config.tile_px, config.overlap_px) for side in labels.shape)
        self._tiles = [
            (row, column)
            for row in rows
            for column in columns
            if (labels[row.core_start : row.core_stop, column.core_start : column.core_stop] >= 0).any()
        ]

    def __len__(self) -> int:
        return len(self._tiles)

    def chip(self, index: int) -> LabelledChip:
        """See :class:`pipeline.evaluation.sources.Chips`."""
        config = self._config
        row, column = self._tiles[index]
        window = Window(column.start, row.start, column.stop - column.start, row.stop - row.start)
        try:
            with rasterio.open(config.image) as image:
                values = image.read(window=window).astype(np.float32)
                nodata = image.nodata if config.nodata is None else config.nodata
        except rasterio.errors.RasterioError as error:
            raise ChipError(f"{config.image} cannot be read: {error}") from None
        missing = ~np.isfinite(values) | (values == nodata if nodata is not None else False)
        # Products without a nodata value fill with zero; no surface has zero in every band.
        missing |= (values == 0).all(axis=0)
        reflectance = np.full((len(BANDS), *values.shape[1:]), np.nan, np.float32)
        slots = [BAND_INDEX[band] for band in config.image_bands]
        scaled = values * np.float32(config.scale) + np.float32(config.offset)
        reflectance[slots] = np.where(missing, np.float32(np.nan), scaled)
        labels = np.full(values.shape[1:], -1, np.int16)
        core = (slice(row.core_start, row.core_stop), slice(column.core_start, column.core_stop))
        inside = tuple(slice(c.start - s.start, c.stop - s.start) for c, s in zip(core, (row, column), strict=True))
        labels[inside] = self._labels[core]
        labels[~np.isfinite(reflectance).any(axis=0)] = -1
        return LabelledChip(reflectance, labels)


def _polygons(files: dict[str, Path], image: rasterio.DatasetReader) -> Channels:
    """Pixels whose centre lies in a polygon; a later file outranks an earlier one."""
    labels = np.full(image.shape, -1, np.int16)
    for channel, path in enumerate(files.values()):
        shapes = read_polygons(path, image.crs.to_wkt())
        burnt = rasterize(shapes, image.shape, transform=image.transform, dtype="uint8")
        labels[burnt > 0] = channel
    return labels


def _codes(config: RasterConfig, legend: Legend, image: rasterio.DatasetReader) -> Channels:
    """A label raster on the image's grid, by nearest neighbour."""
    assert not isinstance(config.labels, dict)
    with (
        rasterio.open(config.labels) as source,
        WarpedVRT(
            source,
            crs=image.crs,
            transform=image.transform,
            width=image.width,
            height=image.height,
            resampling=Resampling.nearest,
        ) as view,
    ):
        codes = view.read(1)
        covered = view.dataset_mask() > 0
    labels = np.full(codes.shape, -1, np.int16)
    by_channel = list(config.label_codes.values()) if config.label_codes else [(code,) for code in legend.codes]
    for channel, members in enumerate(by_channel):
        labels[np.isin(codes, members) & covered] = channel
    return labels
