"""Finished zones as Cloud-Optimized GeoTIFFs: streamed, valid, byte-identical on every writing.

What goes wrong otherwise (each held by a test): ``average`` overviews invent class codes and still pass validation;
tags written after the translation make the file a COG no longer; GDAL's COG driver fed by chunks can end without
overviews. So: a tiled GeoTIFF first, written block by block with its colours and tags; then one ``cog_translate`` to a
temporary name; validated, overviews checked against the legend; then renamed. No time stamp enters the file.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import escape

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow
from rio_cogeo.cogeo import cog_translate, cog_validate

from pipeline.errors import CogError
from pipeline.mapstore.store import LayerName, ZoneStore
from pipeline.predict.stitch import CONFIDENCE_NODATA
from pipeline.records.grid import transform
from pipeline.records.plan import Window, ZoneGrid
from spex_core.durable_files import put_in_place
from spex_core.legend import Legend

BLOCK_PX = 512
"""Internal tile of the written files."""
OverviewResampling = Literal["mode", "nearest", "average"]

_GDAL = {
    "GDAL_NUM_THREADS": "1",  # one writer, one order
    "GDAL_CACHEMAX": 64,  # MB; GDAL's default of 5 % of the machine's memory is per process
    "GDAL_TIFF_OVR_BLOCKSIZE": str(BLOCK_PX),
    "GDAL_PAM_ENABLED": "NO",  # no side files next to temporary names
}
_PROFILE: dict[str, Any] = {
    "driver": "GTiff",
    "tiled": True,
    "blockxsize": BLOCK_PX,
    "blockysize": BLOCK_PX,
    "compress": "DEFLATE",
    "zlevel": 6,
    "interleave": "band",
    "bigtiff": "IF_SAFER",
}


@dataclass(frozen=True)
class _Style:
    """What a file says about its one band."""

    layer: LayerName
    description: str
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
        StoreError: The store is damaged.
    """
    style = _Style(
        layer="landcover",
        description="land cover class",
        nodata=legend.nodata,
        resampling=overview_resampling,
        predictor=1,
        colormap=legend.colormap(),
        band_tags={f"CLASS_{c.code}": c.name for c in legend},
    )
    side_file = _categories_xml(legend).encode()
    return _write(
        zone, Path(path), style, {"LEGEND": legend.name, **(tags or {})}, {legend.nodata, *legend.codes}, side_file
    )


def write_confidence_cog(zone: ZoneStore, path: str | Path, *, tags: Mapping[str, str] | None = None) -> Path:
    """Writes the confidence of a zone: uint8 percent 0..100, nodata 255 (0 is a legal percent), average overviews.

    Raises:
        CogError: Not writable or not a valid COG.
        StoreError: The store is damaged.
    """
    style = _Style(
        layer="confidence",
        description="confidence: highest class score, percent",
        nodata=CONFIDENCE_NODATA,
        resampling="average",
        predictor=2,
        band_tags={"UNITS": "percent"},
        statistics=True,
    )
    return _write(zone, Path(path), style, tags or {}, {*range(101), CONFIDENCE_NODATA})


def write_valid_count_cog(zone: ZoneStore, path: str | Path, *, tags: Mapping[str, str] | None = None) -> Path:
    """Writes the number of valid observations per pixel: uint8, no nodata (0 means none), nearest overviews.

    Raises:
        CogError: Not writable or not a valid COG.
        StoreError: The store is damaged.
    """
    style = _Style(
        layer="valid_count",
        description="valid observations",
        nodata=None,
        resampling="nearest",
        predictor=2,
        statistics=True,
    )
    return _write(zone, Path(path), style, tags or {}, set(range(256)))


# --- writing ------------------------------------------------------------------------------------------------------


def _write(
    zone: ZoneStore,
    path: Path,
    style: _Style,
    tags: Mapping[str, str],
    allowed: set[int],
    side_file: bytes | None = None,
) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A folder beside the destination: same file system, and whatever GDAL leaves behind goes with it.
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder, rasterio.Env(**_GDAL):
            tiled, cog = Path(folder) / "tiled.tif", Path(folder) / "cog.tif"
            _write_tiled(zone, tiled, style, tags)
            cog_translate(
                tiled,
                cog,
                {**_PROFILE, "predictor": style.predictor},
                overview_level=_overview_levels(zone.grid),
                overview_resampling=style.resampling,
                in_memory=False,
                web_optimized=False,
                forward_band_tags=True,
                quiet=True,
                config=_GDAL,
            )
            tiled.unlink()
            check_cog(cog, allowed)
            if side_file is not None:
                side = Path(folder) / "cog.tif.aux.xml"
                side.write_bytes(side_file)
                put_in_place(side, path.with_name(path.name + ".aux.xml"))
            put_in_place(cog, path)
    except (OSError, RasterioError) as error:
        raise CogError(f"{path} cannot be written: {error}") from None  # GDAL's own errors do not pickle
    return path


def _write_tiled(zone: ZoneStore, path: Path, style: _Style, tags: Mapping[str, str]) -> None:
    grid = zone.grid
    profile = {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": 1,
        "height": grid.height,
        "width": grid.width,
        "crs": f"EPSG:{grid.epsg}",
        "transform": transform(grid),
        "tiled": True,
        "blockxsize": BLOCK_PX,
        "blockysize": BLOCK_PX,
        "bigtiff": "IF_SAFER",
        "nodata": style.nodata,
        "photometric": "PALETTE" if style.colormap else "MINISBLACK",
    }
    # Not compressed: a store block need not end where a file's tile ends, and rewriting compressed tiles leaks space.
    with rasterio.open(path, "w", **profile) as target:
        if style.colormap is not None:
            target.write_colormap(1, dict(style.colormap))
        target.set_band_description(1, style.description)
        statistics = _Statistics()
        for window in _windows(grid, zone.array(style.layer).chunks[-1]):
            values = zone.read(style.layer, window)
            target.write(values, 1, window=RasterWindow(window.col, window.row, window.width, window.height))
            if style.statistics:
                statistics.add(values, style.nodata)
        target.update_tags(**dict(sorted(tags.items())))
        target.update_tags(1, **style.band_tags, **statistics.tags())


def _windows(grid: ZoneGrid, size: int) -> Iterator[Window]:
    for row in range(0, grid.height, size):
        for col in range(0, grid.width, size):
            yield Window(row, col, min(size, grid.height - row), min(size, grid.width - col))


def _overview_levels(grid: ZoneGrid) -> int:
    """Halvings until the longer side fits one tile (rio-cogeo's own count stops at the shorter: none for a strip)."""
    return max(0, math.ceil(math.log2(max(grid.height, grid.width) / BLOCK_PX)))


class _Statistics:
    """Exact band statistics of uint8 blocks, from one histogram."""

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


def check_cog(path: str | Path, allowed: set[int]) -> None:
    """Checks that a file is a valid COG and that its pixels, at every overview level, hold allowed values only.

    Raises:
        CogError: It is not, or they do not; the message says what and where.
    """
    path = Path(path)
    valid, errors, warnings = cog_validate(path, quiet=True)
    if not valid or warnings:
        raise CogError(f"{path.name} is not a valid COG: {'; '.join([*errors, *warnings])}")
    for level, values in _values_by_level(path):
        strange = sorted(values - allowed)
        if strange:
            where = "its pixels" if level == 0 else f"overview level {level}"
            raise CogError(f"{path.name}: {where} hold values {strange[:8]} that are not allowed (legend changed?)")


def _values_by_level(path: Path) -> Iterator[tuple[int, set[int]]]:
    with rasterio.open(path) as source:
        levels = len(source.overviews(1))
    for level in range(levels + 1):
        options = {} if level == 0 else {"overview_level": level - 1}
        with rasterio.open(path, **options) as source:
            counts = np.zeros(256, dtype=np.int64)
            for _, window in source.block_windows(1):
                counts += np.bincount(source.read(1, window=window).ravel(), minlength=256)
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
