"""Makes multi-band reflectance GeoTIFFs searchable: single-band COGs and a static STAC catalog beside them.

A run reads scenes from a STAC catalog with one file per band. Scenes that lie on a disk as one GeoTIFF (an export of a
browser, a mosaic, another processor's output) become such a catalog with::

    python -m workflows.real_scenes scene.tif --output data/mine --datetime 2021-05-27T11:33Z --scale 0.001

and are then mapped with ``source: {provider: generic, url: data/mine/catalog.json, collection: local-scenes}``.

Written below the output folder: ``catalog.json``, ``<collection>/collection.json``, ``<collection>/<item>/<item>.json``
with ``<band>.tif`` beside it, and ``region.geojson`` (the footprint of everything in the catalog). Pixels are warped to
the UTM zone of the scene's centre on a grid of multiples of the resolution, and stored as current Sentinel-2 products
are: reflectance = DN * 0.0001 - 0.1, uint16, DN 0 = no measurement; each asset says so (``raster:scale``,
``raster:offset``). Nothing is known about clouds: the scene classification (``SCL.tif``) only says where there is a
measurement (7, unclassified) and where there is none (0).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pystac
import rasterio
import rasterio.features
import shapely
import shapely.geometry
import typer
from affine import Affine
from pystac.stac_io import DefaultStacIO
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_geom
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_translate
from rio_cogeo.profiles import cog_profiles

from pipeline.errors import BadInputError
from pipeline.scene import SCL
from spex_core.bands import BAND_INDEX, BANDS, SENTINEL2_BANDS

DN_SCALE, DN_OFFSET, DN_NODATA = 1e-4, -0.1, 0
"""Sentinel-2 L2A, processing baseline 04.00 and later (ESA): reflectance = DN * 1e-4 - 0.1."""
SCL_NODATA, SCL_UNCLASSIFIED = 0, 7
"""Scene classification values (ESA Sen2Cor): no data, and "unclassified", which no mask removes."""
STAC_EXTENSIONS = (
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_BLOCK_PX = 512
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
    """Name of each band of the file, in the file's order; ``"-"`` is left out."""
    scale: float = 1e-4
    """reflectance = value * scale + offset, in the file."""
    offset: float = 0.0
    nodata: float | None = 0.0
    """Value without measurement where the file does not say; ``None``: every value counts."""
    cloud_cover: float = 0.0
    """Percent, as told: the file is not examined for clouds."""


@dataclass(frozen=True)
class _Grid:
    epsg: int
    transform: Affine
    width: int
    height: int
    resolution_m: float


def convert_scene(scene: SceneFile, collection_folder: Path, *, resolution_m: float = 10.0) -> pystac.Item:
    """Writes the COGs of one scene and returns its STAC item (not yet saved); asset hrefs are absolute paths.

    The bands appear under their final names only when all are complete; an earlier conversion of the item is replaced.

    Args:
        scene: The file and what is known about it.
        collection_folder: The item's folder is made below it.
        resolution_m: Pixel size of the output, metres; all bands alike.

    Raises:
        SceneFileError: Unreadable file, no CRS, or band names that do not fit it.
    """
    _check(scene)
    folder = collection_folder / scene.item_id
    collection_folder.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{scene.item_id}-", dir=collection_folder))
    try:
        with rasterio.open(scene.path) as source:
            if source.crs is None:
                raise SceneFileError(f"{scene.path}: no coordinate reference system; set one with gdal_edit.py -a_srs")
            if len(scene.bands) != source.count:
                raise SceneFileError(
                    f"{scene.path}: {source.count} bands in the file, {len(scene.bands)} names given "
                    f"({','.join(scene.bands)}); name each band in order, '-' for those to leave out"
                )
            grid = _utm_grid(source, resolution_m)
            for number, name in enumerate(scene.bands, start=1):
                if name != "-":
                    _write_band(source, number, scene, grid, partial / f"{name}.tif")
        _write_classification([partial / f"{name}.tif" for name in scene.bands if name != "-"], grid, partial)
        footprint = _footprint(scene, partial / f"{SCL}.tif")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    except RasterioError as error:
        raise SceneFileError(f"{scene.path}: cannot be read as a raster: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return _item(scene, grid, footprint, folder)


def write_catalog(items: list[pystac.Item], output: Path, collection_id: str = "local-scenes") -> Path:
    """Writes catalog, collection, items and ``region.geojson``; items converted earlier stay in the catalog.

    Returns:
        Path of ``catalog.json``.
    """
    fresh = {item.id for item in items}
    for path in sorted((output / collection_id).glob("*/*.json")):
        if path.stem == path.parent.name and path.stem not in fresh:
            items.append(_kept_item(path))
    items = sorted(items, key=lambda item: item.id)
    extent = pystac.Extent.from_items(items)
    collection = pystac.Collection(collection_id, "Sentinel-2 surface reflectance from local files", extent)
    collection.license = "other"
    catalog = pystac.Catalog("local", "Local Sentinel-2 scenes, written by workflows.real_scenes")
    catalog.add_child(collection)
    collection.add_items(items)
    catalog.normalize_hrefs(str(output.resolve()))
    catalog.make_all_asset_hrefs_relative()
    catalog.save(pystac.CatalogType.SELF_CONTAINED, stac_io=_AtomicIO())
    area = shapely.union_all([shapely.geometry.shape(item.geometry) for item in items])
    region = {
        "type": "Feature",
        "properties": {"id": "scenes", "name": "Area of the local scenes"},
        "geometry": shapely.geometry.mapping(area),
    }
    content = {"type": "FeatureCollection", "features": [region]}
    _AtomicIO().write_text_to_href(str(output / "region.geojson"), json.dumps(content, indent=1))
    return output / "catalog.json"


def _check(scene: SceneFile) -> None:
    if not _ID.fullmatch(scene.item_id):
        raise SceneFileError(
            f"item id {scene.item_id!r} must be letters, digits, '.', '_' or '-', and start with a letter or digit"
        )
    named = [name for name in scene.bands if name != "-"]
    unknown = sorted(set(named) - set(SENTINEL2_BANDS))
    if unknown or not named or len(set(named)) != len(named):
        raise SceneFileError(
            f"{scene.path}: bands {','.join(scene.bands)} must be distinct names of {' '.join(SENTINEL2_BANDS)}, or '-'"
        )
    if scene.scale <= 0:
        raise SceneFileError(f"{scene.path}: scale {scene.scale} must be positive")


def _utm_grid(source: rasterio.DatasetReader, resolution_m: float) -> _Grid:
    outline = transform_geom(source.crs, "EPSG:4326", shapely.geometry.mapping(shapely.box(*source.bounds)))
    centre = shapely.geometry.shape(outline).centroid
    epsg = (32700 if centre.y < 0 else 32600) + min(int((centre.x + 180) // 6) + 1, 60)
    # 21 points a side, because the edges of one projection are curves in another.
    west, south, east, north = rasterio.warp.transform_bounds(
        source.crs, f"EPSG:{epsg}", *source.bounds, densify_pts=21
    )
    left, top = np.floor(west / resolution_m + 1e-3) * resolution_m, np.ceil(north / resolution_m - 1e-3) * resolution_m
    return _Grid(
        epsg=epsg,
        transform=Affine(resolution_m, 0.0, float(left), 0.0, -resolution_m, float(top)),
        width=max(1, int(np.ceil((east - left) / resolution_m - 1e-3))),
        height=max(1, int(np.ceil((top - south) / resolution_m - 1e-3))),
        resolution_m=resolution_m,
    )


def _write_band(source: rasterio.DatasetReader, number: int, scene: SceneFile, grid: _Grid, path: Path) -> None:
    nodata = source.nodatavals[number - 1]
    # float32 while warping: interpolated values keep the digits that the file's own integers would drop.
    with WarpedVRT(
        source, crs=f"EPSG:{grid.epsg}", transform=grid.transform, width=grid.width, height=grid.height,
        resampling=Resampling.bilinear, src_nodata=scene.nodata if nodata is None else nodata,
        nodata=float("nan"), dtype="float32", UNIFIED_SRC_NODATA="NO",  # a band without a value, not a pixel
    ) as warped:  # fmt: skip
        _write_cog(path, grid, "uint16", "average", lambda w: _digital_numbers(warped.read(number, window=w), scene))


def _write_classification(bands: list[Path], grid: _Grid, folder: Path) -> None:
    with contextlib.ExitStack() as files:
        opened = [files.enter_context(rasterio.open(path)) for path in bands]

        def measured(window: Window) -> npt.NDArray[Any]:
            everywhere = np.logical_and.reduce([band.read(1, window=window) != DN_NODATA for band in opened])
            return np.where(everywhere, SCL_UNCLASSIFIED, SCL_NODATA).astype(np.uint8)

        _write_cog(folder / f"{SCL}.tif", grid, "uint8", "nearest", measured)


def _write_cog(
    path: Path,
    grid: _Grid,
    dtype: str,
    overviews: Literal["average", "nearest"],
    block: Callable[[Window], npt.NDArray[Any]],
) -> None:
    """Writes one band block by block as a tiled GeoTIFF, then turns it into a COG; 0 is nodata."""
    tiled = path.with_suffix(".tiled.tif")
    profile = {
        "driver": "GTiff", "dtype": dtype, "count": 1, "nodata": 0,
        "width": grid.width, "height": grid.height, "crs": f"EPSG:{grid.epsg}", "transform": grid.transform,
        "tiled": True, "blockxsize": _BLOCK_PX, "blockysize": _BLOCK_PX,
    }  # fmt: skip
    with rasterio.open(tiled, "w", **profile) as target:
        for row in range(0, grid.height, _BLOCK_PX):
            for col in range(0, grid.width, _BLOCK_PX):
                window = Window(col, row, min(_BLOCK_PX, grid.width - col), min(_BLOCK_PX, grid.height - row))
                target.write(block(window), 1, window=window)
    cog_translate(
        str(tiled), str(path), cog_profiles.get("deflate"),  # type: ignore[no-untyped-call]
        overview_resampling=overviews, in_memory=False, quiet=True, add_mask=False,
    )  # fmt: skip
    tiled.unlink()


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
        # Closed and opened by two pixels of the mask: small holes and stray pixels are not worth a vertex each.
        outline = shapely.union_all(pieces).buffer(2 * pixel).buffer(-2 * pixel).simplify(pixel)
        lonlat = shapely.geometry.shape(transform_geom(band.crs, "EPSG:4326", shapely.geometry.mapping(outline)))
    geometry: dict[str, Any] = json.loads(shapely.to_geojson(shapely.set_precision(lonlat, 1e-6)))
    return geometry


def _item(scene: SceneFile, grid: _Grid, footprint: dict[str, Any], folder: Path) -> pystac.Item:
    item = pystac.Item(
        id=scene.item_id,
        geometry=footprint,
        bbox=list(shapely.geometry.shape(footprint).bounds),
        datetime=scene.datetime,
        properties={
            "description": f"From {scene.path.name}, where reflectance = value * {scene.scale:g} + {scene.offset:g}",
            "eo:cloud_cover": scene.cloud_cover,
            "gsd": grid.resolution_m,
            "proj:code": f"EPSG:{grid.epsg}",
            "proj:shape": [grid.height, grid.width],
            "proj:transform": list(grid.transform)[:6],
        },
        stac_extensions=list(STAC_EXTENSIONS),
    )
    for name in scene.bands:
        if name == "-":
            continue
        band = BANDS[BAND_INDEX[name]]
        item.add_asset(
            name,
            pystac.Asset(
                href=str((folder / f"{name}.tif").resolve()),
                title=f"{name}, surface reflectance",
                media_type=pystac.MediaType.COG,
                roles=["data", "reflectance"],
                extra_fields={
                    "data_type": "uint16",
                    "nodata": DN_NODATA,
                    "raster:scale": DN_SCALE,
                    "raster:offset": DN_OFFSET,
                    "bands": [{"name": name, "eo:common_name": band.common_name}],
                },
            ),
        )
    item.add_asset(
        SCL,
        pystac.Asset(
            href=str((folder / f"{SCL}.tif").resolve()),
            title="Scene classification: 7 where every band is measured, 0 elsewhere; clouds were not looked for",
            media_type=pystac.MediaType.COG,
            roles=["data"],
            extra_fields={"data_type": "uint8", "nodata": SCL_NODATA},
        ),
    )
    return item


class _AtomicIO(DefaultStacIO):
    """Writes beside the final name, then renames: a reader sees the old file or the new one."""

    def write_text_to_href(self, href: str, txt: str) -> None:
        path = Path(href)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(txt, encoding="utf-8")
        os.replace(partial, path)


def _kept_item(path: Path) -> pystac.Item:
    """An item of an earlier conversion, with absolute asset hrefs and no links."""
    try:
        item = pystac.Item.from_file(str(path))
        item.make_asset_hrefs_absolute()
    except (OSError, ValueError, KeyError, TypeError, pystac.STACError, pystac.STACTypeError) as error:
        raise SceneFileError(f"{path}: not a readable STAC item ({error}); remove it or use another folder") from error
    item.clear_links()
    return item


def main(
    files: Annotated[list[Path], typer.Argument(help="Multi-band GeoTIFFs, one per scene.")],
    output: Annotated[Path, typer.Option(help="Folder of the catalog; scenes already in it stay.")],
    datetime: Annotated[
        list[str], typer.Option(help="Acquisition time, ISO 8601 (UTC): one for all files, or one each.")
    ],
    scale: Annotated[float, typer.Option(help="reflectance = value * scale + offset.")] = 1e-4,
    offset: Annotated[float, typer.Option(help="See --scale; -0.1 for DN of baseline 04.00 and later.")] = 0.0,
    bands: Annotated[str, typer.Option(help="Band names in the file's order; '-' leaves one out.")] = ",".join(
        SENTINEL2_BANDS
    ),
    nodata: Annotated[float, typer.Option(help="Value without measurement, where the file does not say.")] = 0.0,
    cloud_cover: Annotated[float, typer.Option(min=0, max=100, help="Percent, as you know it.")] = 0.0,
    resolution: Annotated[float, typer.Option(min=1, help="Pixel size in metres.")] = 10.0,
    collection: Annotated[str, typer.Option(help="Collection id.")] = "local-scenes",
) -> None:
    """Converts local multi-band GeoTIFFs into single-band COGs with a static STAC catalog."""
    try:
        if not _ID.fullmatch(collection):
            raise SceneFileError(f"collection id {collection!r} must be letters, digits, '.', '_' or '-'")
        if len(datetime) not in (1, len(files)):
            raise SceneFileError(
                f"{len(files)} files but {len(datetime)} times: give --datetime once, or once per file"
            )
        items = []
        for position, path in enumerate(files):
            scene = SceneFile(
                path=path,
                item_id=re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._") or "scene",
                datetime=_utc(datetime[position if len(datetime) > 1 else 0]),
                bands=tuple(name.strip() for name in bands.split(",")),
                scale=scale,
                offset=offset,
                nodata=nodata,
                cloud_cover=cloud_cover,
            )
            items.append(convert_scene(scene, output / collection, resolution_m=resolution))
            missing = [name for name in SENTINEL2_BANDS if name not in items[-1].assets]
            note = f" (without {', '.join(missing)})" if missing else ""
            typer.echo(f"{path}: {items[-1].properties['proj:code']}, {len(items[-1].assets) - 1} bands{note}")
        typer.echo(f"catalog: {write_catalog(items, output, collection)}")
        typer.echo(f"region:  {output / 'region.geojson'}")
    except BadInputError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


def _utc(text: str) -> dt.datetime:
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise SceneFileError(f"--datetime {text!r} is not ISO 8601, e.g. 2021-05-27T11:33:00Z") from error
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)


if __name__ == "__main__":
    typer.run(main)
