"""Label maps: land-cover products of public catalogs and any other collection of class rasters, read onto chips.

Sources: ESA WorldCover v100 (2020) and v200 (2021), product user manual; its STAC items (stactools esa-worldcover), as
the Planetary Computer serves them: collection ``esa-worldcover``, asset ``map``, EPSG:4326, tiles of 3 degrees, no
``datetime`` but a start and an end. The STAC catalog of the Copernicus Data Space holds its successor, the Land Cover
Map of the Copernicus Land Monitoring Service (LCFM LCM-10), with other codes for the same classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from rasterio.enums import Resampling
from rasterio.windows import Window as RasterWindow
from stackstac.raster_spec import RasterSpec

from pipeline.errors import LabelError, SceneError
from pipeline.imagery.file_reader import AssetReader
from pipeline.records.grid import geobox, unproject
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.region import Region
from pipeline.settings.run_file import SourceConfig
from pipeline.sources import hrefs
from pipeline.sources.catalog import asset_door, find_items, what_was_searched
from pipeline.sources.items import asset_href, item_datetime, item_footprint, item_id, item_properties, one_item
from pipeline.sources.signing import signer_for
from pipeline.spie.config import LabelConfig, LabelProvider
from spex_core.legend import Legend

Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class LabelProduct:
    """A land-cover product in a public catalog."""

    title: str
    url: str
    collection: str
    asset: str
    codes: Mapping[int, int]
    """Code of the product → ESA WorldCover code, as in the legend ``worldcover9``."""
    nodata: int
    licence: str


WORLDCOVER_CODES: dict[int, int] = {
    10: 10, 20: 20, 30: 30, 40: 40, 50: 50, 60: 60, 70: 70, 80: 80, 90: 90,
    95: 10,  # mangroves are trees
}  # fmt: skip
"""Moss and lichen (100) has no class in ``worldcover9`` and stays unlabelled."""
LCM10_CODES: dict[int, int] = {
    10: 10, 20: 20, 30: 30, 40: 40,
    50: 90,  # herbaceous wetland
    60: 10,  # mangroves
    80: 60,  # bare and sparse vegetation
    90: 50,  # built-up
    100: 80,  # permanent water
    110: 70,  # snow and ice
}  # fmt: skip
"""Moss and lichen (70) and unclassifiable (254) stay unlabelled."""

PRODUCTS: dict[LabelProvider, LabelProduct] = {
    "planetary-computer": LabelProduct(
        title="ESA WorldCover",
        url="https://planetarycomputer.microsoft.com/api/stac/v1",
        collection="esa-worldcover",
        asset="map",
        codes=WORLDCOVER_CODES,
        nodata=0,
        licence="CC-BY-4.0, © ESA WorldCover project / Contains modified Copernicus Sentinel data processed by ESA "
        "WorldCover consortium",
    ),
    "cdse": LabelProduct(
        title="Copernicus Land Cover Map 10 m (LCFM LCM-10)",
        url="https://stac.dataspace.copernicus.eu/v1",
        collection="clms_lcm_global_10m_yearly_v1_cog",
        asset="map",
        codes=LCM10_CODES,
        nodata=255,
        licence="Copernicus Land Monitoring Service data policy (free, full and open; source to be named)",
    ),
}
"""Not reached where this was written: ids, keys and codes are those of the products' documentation."""


@dataclass(frozen=True)
class LabelFile:
    """One class raster of a label collection."""

    id: str
    href: str
    footprint: shapely.Geometry
    """lon/lat."""
    date: str
    """ISO date of the map; of a period, its first day."""
    licence: str


@dataclass(frozen=True)
class LabelSource:
    """A label collection over a region: files, newest first, and how their codes become those of the legend."""

    title: str
    collection: str | None
    files: tuple[LabelFile, ...]
    codes: Mapping[int, int]
    """Code in the files → legend code."""
    nodata: int
    """Code in the files that means "not labelled", beside what they say."""
    provider: LabelProvider
    unlabelled: int
    """Code of pixels without a class: the legend's nodata."""
    door: hrefs.AssetDoor | None = None
    """What may be opened; None: each file's own server."""

    def read(self, grid: ZoneGrid, window: Window) -> tuple[Codes, tuple[LabelFile, ...]]:
        """Legend codes of a window: a later (older) file fills what newer ones leave unlabelled.

        Returns:
            uint8 [h, w] with :attr:`unlabelled` where no file has a class, and the files that gave a pixel.

        Raises:
            ReadError: A file cannot be read.
        """
        codes = np.full((window.height, window.width), self.unlabelled, np.uint8)
        box = unproject(shapely.box(*geobox(grid, window).boundingbox.bbox), grid.epsg)
        used = []
        for file in self.files:
            open_pixels = codes == self.unlabelled
            if not open_pixels.any():
                break
            if not file.footprint.intersects(box):
                continue
            found = recode(self._numbers(file, grid, window), self.codes, self.unlabelled)
            filled = open_pixels & (found != self.unlabelled)
            if filled.any():
                used.append(file)
                codes = np.where(filled, found, codes)
        return codes, tuple(used)

    def _numbers(self, file: LabelFile, grid: ZoneGrid, window: Window) -> npt.NDArray[np.float32]:
        box = geobox(grid, window)
        step = grid.resolution_m
        reader = AssetReader(
            url=file.href,
            spec=RasterSpec(grid.epsg, box.boundingbox.bbox, (step, step)),
            resampling=Resampling.nearest,
            dtype=np.dtype("float32"),
            fill_value=np.nan,
            scale_offset=(1, 0),
            nodata={file.href: self.nodata},
            signer=signer_for(self.provider),
            door=self.door,
        )
        return reader.read(RasterWindow(0, 0, window.width, window.height))


def recode(numbers: npt.NDArray[Any], codes: Mapping[int, int], unlabelled: int) -> Codes:
    """Codes of a raster → codes of the legend; NaN and codes that are not in the table become ``unlabelled``."""
    table = np.full(256, unlabelled, np.uint8)
    for raster_code, legend_code in codes.items():
        table[raster_code] = legend_code
    known = np.isfinite(numbers) & (numbers >= 0) & (numbers <= 255)
    whole = np.where(known, numbers, 0).astype(np.uint8)
    return np.where(known & (whole == numbers), table[whole], np.uint8(unlabelled))


def code_table(codes: Mapping[int, int] | None, legend: Legend, what: str) -> dict[int, int]:
    """The code mapping in force, checked against the legend.

    Args:
        codes: As configured; None: each legend code as itself.
        legend: Its codes are the only targets.
        what: Field name, for the message.

    Raises:
        LabelError: A code is outside 0..255 or a target is no class of the legend.
    """
    table = {code: code for code in legend.codes} if codes is None else dict(codes)
    wrong = [f"{a}: {b}" for a, b in table.items() if not 0 <= a <= 255 or b not in legend.codes]
    if wrong:
        raise LabelError(
            f"{what}: {', '.join(wrong)} does not map a raster code (0 to 255) to a class of legend {legend.name!r} "
            f"({', '.join(map(str, legend.codes))})"
        )
    return table


def find_labels(config: LabelConfig, legend: Legend, region: Region) -> LabelSource:
    """Searches the label collection.

    Raises:
        LabelError: Nothing usable was found; the message says what was searched. Or the code table does not fit.
        CatalogError: The catalog does not answer, or not with STAC.
    """
    product = PRODUCTS.get(config.provider)
    asset = config.asset or (product.asset if product else "")
    codes = config.codes if config.codes is not None or product is None else _fitting(product.codes, legend)
    source = label_catalog(config)
    door = asset_door(source)
    search = find_items(source, region, config.start, config.end)
    files, problems = [], [f"{where}: {reason}" for where, reason in search.problems]
    for found in search.items:
        try:
            files.append(_label_file(found.item, found.base, asset, door))
        except SceneError as error:
            problems.append(str(error))
    table = code_table(codes, legend, "labels.codes")
    what = what_was_searched(search, region, config.start, config.end, 100.0)
    if not files:
        first = f" (first problem: {problems[0]})" if problems else ""
        raise LabelError(
            f"no labels: {what}: {search.returned} items, none with a usable asset {asset!r}{first}; check "
            "labels.collection, labels.asset and labels.start/end"
        )
    licence = config.licence or (product.licence if product else "")
    if config.licence or licence:
        files = [replace(file, licence=config.licence or file.licence or licence) for file in files]
    return LabelSource(
        title=product.title if product else (search.collection or "labels"),
        collection=search.collection,
        files=tuple(sorted(files, key=lambda f: (_descending(f.date), f.id))),
        codes=table,
        nodata=_nodata(config, product, table),
        provider=config.provider,
        unlabelled=legend.nodata,
        door=door,
    )


def label_catalog(config: LabelConfig) -> SourceConfig:
    """Where the labels are searched, and what may be opened there."""
    product = PRODUCTS.get(config.provider)
    return SourceConfig(
        provider="generic",
        url=config.url or (product.url if product else None),
        collection=config.collection or (product.collection if product else None),
        max_cloud_cover=100.0,
        allowed_schemes=config.allowed_schemes,
        allowed_roots=config.allowed_roots,
    )


def unused_code(codes: Mapping[int, int]) -> int:
    """A raster code that means nothing: stands for nodata where a file and its description have none."""
    return next((code for code in range(256) if code not in codes), 0)


def _nodata(config: LabelConfig, product: LabelProduct | None, codes: Mapping[int, int]) -> int:
    if config.nodata is not None:
        return config.nodata
    return product.nodata if product else unused_code(codes)


def _fitting(codes: Mapping[int, int], legend: Legend) -> dict[int, int]:
    """A product's table without the classes that the legend lacks."""
    return {a: b for a, b in codes.items() if b in legend.codes}


def _descending(date: str) -> tuple[int, ...]:
    return tuple(-int(part) for part in date.split("-"))


def _label_file(item: Mapping[str, Any], base: str, key: str, door: hrefs.AssetDoor) -> LabelFile:
    identifier = item_id(item)
    with one_item(item):
        assets = item.get("assets")
        asset = assets.get(key) if isinstance(assets, Mapping) else None
        href = asset.get("href") if isinstance(asset, Mapping) else None
        if not isinstance(href, str) or not href:
            raise SceneError(f"{identifier}: no asset {key!r}")
        licence = item_properties(item).get("license")
        return LabelFile(
            id=identifier,
            href=asset_href(identifier, key, href, base, door),
            footprint=item_footprint(item),
            date=item_datetime(item).date().isoformat(),
            licence=licence if isinstance(licence, str) and licence.isprintable() else "",
        )
