"""Finished zones as Cloud-Optimized GeoTIFFs: streamed, valid, byte-identical on every writing.

What goes wrong otherwise (each held by a test): ``average`` overviews invent class codes and still pass validation; a
level as wide as its tile is taken for untiled. So every file goes through :mod:`pipeline.outputs.cog_writer`, and its
values are checked on every level before it gets its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import escape

import numpy as np
import rasterio
from rasterio.io import DatasetWriter
from rasterio.windows import Window as RasterWindow
from shapely.geometry.base import BaseGeometry

from pipeline.errors import CogError
from pipeline.machine.atomic_files import write_text
from pipeline.mapstore.zone_store import ZoneStore
from pipeline.outputs.assets import COUNT_NODATA
from pipeline.outputs.cog_writer import (
    WRITE_ERRORS,
    OverviewResampling,
    RasterForm,
    reason_of,
    validate_cog,
    write_blank_cog,
    write_cog,
)
from pipeline.outputs.overviews import tiles_touched
from pipeline.predict.stitch import CONFIDENCE_NODATA, SCORE_SCALE
from pipeline.records.grid import region_mask, transform
from pipeline.records.plan import Block, Window, ZoneGrid, ZonePlan
from spex_core.legend import Legend


@dataclass(frozen=True)
class _Style:
    """What a file says about its bands."""

    read: Callable[[Block], np.ndarray]
    """uint8 ``[h, w]`` of the pixels of a block, ``[bands, h, w]`` where there are several."""
    descriptions: tuple[str, ...]
    """One per band."""
    nodata: int | None
    resampling: OverviewResampling
    predictor: int
    """TIFF predictor: 1 none (codes have no gradient), 2 horizontal differences."""
    colormap: Mapping[int, tuple[int, int, int, int]] | None = None
    band_tags: Mapping[str, str] = field(default_factory=dict)
    statistics: bool = False
    """Write GDAL's ``STATISTICS_*`` so that viewers stretch without reading the file."""


def write_landcover_cog(
    zone: ZoneStore,
    path: str | Path,
    legend: Legend,
    *,
    overview_resampling: Literal["mode", "nearest"] = "mode",
    tags: Mapping[str, str] | None = None,
) -> Path:
    """Writes the class map of a zone: uint8 legend codes, colour table, class names, overviews whose codes are codes.

    Class names are band tags (``CLASS_10=...``) in the file, and category names with an attribute table in
    ``<path>.aux.xml``, where QGIS and gdalinfo look for them.

    Args:
        zone: Finished blocks; the others are nodata.
        path: Destination; appears only when complete and valid.
        legend: Codes, names, colours.
        overview_resampling: Never ``average``: the mean of two codes is a third class.
        tags: Dataset tags. Anything that changes between writings (a time) breaks byte-identity.

    Returns:
        The path.

    Raises:
        CogError: Not writable, not a valid COG, or a pixel or overview holds a code that is not in the legend.
        OutputError: The file beside it cannot be written.
        StoreError: The store is damaged.
    """
    style = _landcover_style(legend, overview_resampling, lambda block: zone.read("landcover", block.window))
    tags = {"LEGEND": legend.name, **(tags or {})}
    written = _write(zone, Path(path), style, tags, {legend.nodata, *legend.codes})
    write_categories(written, legend)
    return written


def write_categories(path: Path, legend: Legend) -> None:
    """Writes the file beside a class map in which QGIS and gdalinfo look for its classes.

    Raises:
        OutputError: It cannot be written.
    """
    write_text(path.with_name(path.name + ".aux.xml"), _categories_xml(legend))


def write_blank_landcover_cog(grid: ZoneGrid, path: Path, legend: Legend) -> None:
    """Writes a file of the shape of a zone's class map with hardly a pixel in it; some seconds for any shape.

    Raises:
        CogError: Not writable, or a map of this shape is not a valid COG.
    """
    try:
        write_blank_cog(path, _form(grid, _landcover_style(legend, "nearest", _nothing)))
    except WRITE_ERRORS as error:
        raise CogError(f"{path} cannot be written: {reason_of(error)}") from None


def _nothing(block: Block) -> np.ndarray:
    return np.zeros((block.window.height, block.window.width), np.uint8)


def _landcover_style(
    legend: Legend, overview_resampling: Literal["mode", "nearest"], read: Callable[[Block], np.ndarray]
) -> _Style:
    return _Style(
        read=read,
        descriptions=("land cover class",),
        nodata=legend.nodata,
        resampling=overview_resampling,
        predictor=1,
        colormap=legend.colormap(),
        band_tags={f"CLASS_{c.code}": c.name for c in legend},
    )


def write_confidence_cog(zone: ZoneStore, path: str | Path, *, tags: Mapping[str, str] | None = None) -> Path:
    """Writes the confidence of a zone, see :func:`write_percent_cog`."""

    def read(block: Block) -> np.ndarray:
        return zone.read("confidence", block.window)

    return write_percent_cog(zone, path, read, "confidence: highest class score, percent", tags=tags)


def write_percent_cog(
    zone: ZoneStore,
    path: str | Path,
    read: Callable[[Block], np.ndarray],
    description: str,
    *,
    tags: Mapping[str, str] | None = None,
) -> Path:
    """Writes percents of a zone: uint8 0..100, nodata 255 (0 is a legal percent), average overviews.

    Raises:
        CogError: Not writable or not a valid COG.
        StoreError: The store is damaged.
    """
    style = _Style(
        read=read,
        descriptions=(description,),
        nodata=CONFIDENCE_NODATA,
        resampling="average",
        predictor=2,
        band_tags={"UNITS": "percent"},
        statistics=True,
    )
    return _write(zone, Path(path), style, tags or {}, {*range(101), CONFIDENCE_NODATA})


@dataclass(frozen=True)
class Observed:
    """Where a map was looked at: elsewhere nothing was counted, not even nothing."""

    finished: frozenset[int] | None = None
    """Blocks; ``None``: all."""
    area: BaseGeometry | None = None
    """Lon/lat; ``None``: everywhere."""


def write_valid_count_cog(
    zone: ZoneStore, path: str | Path, observed: Observed | None = None, *, tags: Mapping[str, str] | None = None
) -> Path:
    """Writes the number of valid observations per pixel: uint8, nodata 255, nearest overviews.

    0 is a count: ground of the map that no scene saw. What lies outside the map, or in a block that is missing, is
    nodata.

    Raises:
        CogError: Not writable or not a valid COG.
        StoreError: The store is damaged.
    """
    seen = observed or Observed()

    def read(block: Block) -> np.ndarray:
        counts = zone.read("valid_count", block.window)
        if seen.finished is not None and block.index not in seen.finished:
            return np.full_like(counts, COUNT_NODATA)
        if seen.area is None:
            return counts
        inside = region_mask(seen.area, zone.grid, block.window) | (counts > 0)
        return np.where(inside, counts, np.uint8(COUNT_NODATA))

    style = _Style(
        read=read,
        descriptions=("valid observations",),
        nodata=COUNT_NODATA,
        resampling="nearest",
        predictor=2,
        statistics=True,
    )
    return _write(zone, Path(path), style, tags or {}, set(range(256)))


def write_truecolor_cog(zone: ZoneStore, path: str | Path, *, tags: Mapping[str, str] | None = None) -> Path:
    """Writes the picture below the map: red, green and blue, uint8, nodata 0, average overviews.

    Raises:
        CogError: Not writable or not a valid COG.
        StoreError: The store is damaged, or an earlier version made it: it has no picture.
    """
    style = _Style(
        read=lambda block: zone.read("truecolor", block.window),
        descriptions=("red", "green", "blue"),
        nodata=0,
        resampling="average",
        predictor=2,
    )
    return _write(zone, Path(path), style, tags or {}, set(range(256)))


def write_scores_cog(
    zone: ZoneStore, path: str | Path, legend: Legend, *, tags: Mapping[str, str] | None = None
) -> Path:
    """Writes the score of every class, a band each in the legend's order: uint8 percent, nodata 255, average overviews.

    Raises:
        CogError: Not writable or not a valid COG.
        StoreError: The store is damaged.
    """

    def read(block: Block) -> np.ndarray:
        percent = (zone.read("scores", block.window).astype(np.uint16) * 100 + SCORE_SCALE // 2) // SCORE_SCALE
        unknown = zone.read("landcover", block.window) == legend.nodata
        return np.where(unknown, np.uint8(CONFIDENCE_NODATA), percent.astype(np.uint8))

    style = _Style(
        read=read,
        descriptions=tuple(c.name for c in legend),
        nodata=CONFIDENCE_NODATA,
        resampling="average",
        predictor=2,
        band_tags={"UNITS": "percent"},
        statistics=True,
    )
    return _write(zone, Path(path), style, tags or {}, {*range(101), CONFIDENCE_NODATA})


# --- writing ------------------------------------------------------------------------------------------------------


def _write(zone: ZoneStore, path: Path, style: _Style, tags: Mapping[str, str], allowed: set[int]) -> Path:
    windows = _mapped_windows(zone.plan)
    try:
        write_cog(
            path,
            _form(zone.grid, style),
            lambda target: _fill(target, zone, style, tags),
            lambda cog: check_cog(cog, allowed, windows),
            windows,
        )
    except WRITE_ERRORS as error:
        raise CogError(f"{path} cannot be written: {reason_of(error)}") from None  # GDAL's own errors do not pickle
    return path


def _form(grid: ZoneGrid, style: _Style) -> RasterForm:
    return RasterForm(
        height=grid.height,
        width=grid.width,
        epsg=grid.epsg,
        transform=transform(grid),
        dtype="uint8",
        nodata=style.nodata,
        resampling=style.resampling,
        predictor=style.predictor,
        colormap=style.colormap,
        count=len(style.descriptions),
    )


def _mapped_windows(zone: ZonePlan) -> tuple[Window, ...] | None:
    """Where a map has blocks; ``None`` if that is everywhere: such a file has no holes, not even where it is nodata."""
    windows = tuple(block.window for block in zone.blocks)
    whole = sum(window.height * window.width for window in windows) == zone.grid.height * zone.grid.width
    return None if whole else windows


def _fill(target: DatasetWriter, zone: ZoneStore, style: _Style, tags: Mapping[str, str]) -> None:
    bands = range(1, len(style.descriptions) + 1)
    statistics = [_Statistics() for _ in bands]
    for block in zone.plan.blocks:
        window, values = block.window, style.read(block)
        values = values[None] if values.ndim == 2 else values
        target.write(values, window=RasterWindow(window.col, window.row, window.width, window.height))
        if style.statistics:
            for counted, band_values in zip(statistics, values, strict=True):
                counted.add(band_values, style.nodata)
    target.update_tags(**dict(sorted(tags.items())))
    for band, description, counted in zip(bands, style.descriptions, statistics, strict=True):
        target.set_band_description(band, description)
        target.update_tags(band, **style.band_tags, **counted.tags())


class _Statistics:
    """Exact band statistics of the uint8 pixels of all blocks, from one histogram; ground without a block counts as
    nothing, also where the band has no nodata."""

    def __init__(self) -> None:
        self._counts = np.zeros(256, dtype=np.int64)

    def add(self, values: np.ndarray, nodata: int | None) -> None:
        counts = np.bincount(values.ravel(), minlength=256)
        if nodata is not None:
            counts[nodata] = 0
        self._counts += counts

    def tags(self) -> dict[str, str]:
        total = int(self._counts.sum())
        if total == 0:
            return {}
        values = np.arange(256)
        present = np.flatnonzero(self._counts)
        mean = float((self._counts * values).sum()) / total
        deviation = float(np.sqrt((self._counts * (values - mean) ** 2).sum() / total))
        return {
            "STATISTICS_MINIMUM": str(present[0]),
            "STATISTICS_MAXIMUM": str(present[-1]),
            "STATISTICS_MEAN": f"{mean:.6f}",
            "STATISTICS_STDDEV": f"{deviation:.6f}",
        }


# --- checking -----------------------------------------------------------------------------------------------------


def check_cog(path: str | Path, allowed: set[int], windows: Sequence[Window] | None = None) -> None:
    """Checks that a file is a valid COG and that its pixels, at every overview level, hold allowed values only.

    Args:
        path: The file.
        allowed: Values of pixels.
        windows: Where a sparse file has pixels: only tiles that these touch are read; default: all.

    Raises:
        CogError: It is not, or they do not; the message says what and where.
    """
    path = Path(path)
    validate_cog(path)
    for level, values in _values_by_level(path, windows) if len(allowed) < 256 else ():  # there are no others
        strange = sorted(values - allowed)
        if strange:
            where = "its pixels" if level == 0 else f"overview level {level}"
            raise CogError(f"{path.name}: {where} hold values {strange[:8]} that are not allowed (legend changed?)")


def _values_by_level(path: Path, windows: Sequence[Window] | None) -> Iterator[tuple[int, set[int]]]:
    with rasterio.open(path) as source:
        factors = [1, *source.overviews(1)]
        everywhere = (Window(0, 0, source.height, source.width),)
    for level, factor in enumerate(factors):
        options = {} if level == 0 else {"overview_level": level - 1}
        with rasterio.open(path, **options) as source:
            side = source.block_shapes[0][0]
            counts = np.zeros(256, dtype=np.int64)
            for row, col in tiles_touched(windows or everywhere, side * factor):
                top, left = row * side, col * side
                tile = RasterWindow(left, top, min(side, source.width - left), min(side, source.height - top))
                counts += np.bincount(source.read(window=tile).ravel(), minlength=256)
        yield level, {int(value) for value in np.flatnonzero(counts)}


def _categories_xml(legend: Legend) -> str:
    """GDAL's PAM side file: category names by code and a raster attribute table."""
    names = {legend.nodata: "no data", **{c.code: c.name for c in legend}}
    categories = "".join(f"<Category>{escape(names.get(code, ''))}</Category>" for code in range(max(names) + 1))
    # Field types: 0 integer, 2 string; usages: 5 MinMax (value), 2 Name, 6..8 Red Green Blue.
    fields = (("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8))
    definitions = "".join(
        f'<FieldDefn index="{i}"><Name>{name}</Name><Type>{kind}</Type><Usage>{usage}</Usage></FieldDefn>'
        for i, (name, kind, usage) in enumerate(fields)
    )
    rows = "".join(
        f'<Row index="{i}"><F>{c.code}</F><F>{escape(c.name)}</F>' + "".join(f"<F>{v}</F>" for v in c.rgb) + "</Row>"
        for i, c in enumerate(legend)
    )
    return (
        '<PAMDataset><PAMRasterBand band="1">'
        f"<CategoryNames>{categories}</CategoryNames>"
        f'<GDALRasterAttributeTable tableType="thematic">{definitions}{rows}</GDALRasterAttributeTable>'
        "</PAMRasterBand></PAMDataset>\n"
    )
