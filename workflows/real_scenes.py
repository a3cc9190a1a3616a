"""Makes multi-band reflectance GeoTIFFs searchable: single-band COGs and a static STAC catalog beside them.

A run reads scenes from a STAC catalog with one file per band. Scenes that lie on a disk as one GeoTIFF (an export of a
browser, a mosaic, another processor's output) become such a catalog with::

    python -m workflows.real_scenes scene.tif --output data/mine --datetime 2021-05-27T11:33Z --scale 0.001

and are then mapped with ``source: {provider: generic, url: data/mine/catalog.json, collection: local-scenes}``.

Written below the output folder: ``catalog.json``, ``<collection>/collection.json``, ``<collection>/<item>/<item>.json``
with ``<band>.tif`` beside it, and ``region.geojson`` (the footprint of everything in the catalog). Pixels are warped to
the UTM zone of the scene's centre on a grid of multiples of the resolution, and stored as current Sentinel-2 products
are: reflectance = DN * 0.0001 - 0.1, uint16, DN 0 = no measurement; each asset says so (``raster:scale``,
``raster:offset``). Where the file has no scene classification of its own (``--bands ...,SCL``), nothing is known about
clouds: ``SCL.tif`` then only says where there is a measurement (7, unclassified) and where there is none (0).
"""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path
from typing import Annotated

import pystac
import shapely
import shapely.geometry
import typer
from pystac.stac_io import DefaultStacIO

from pipeline.errors import BadInputError
from pipeline.machine.atomic_files import write_text
from pipeline.records.scene import SCL
from spex_core.bands import BAND_INDEX, BANDS, SENTINEL2_BANDS
from workflows.scene_cogs import (
    DN_NODATA,
    DN_OFFSET,
    DN_SCALE,
    SCL_NODATA,
    SceneFile,
    SceneFileError,
    WrittenScene,
    check_id,
    write_scene_cogs,
)

STAC_EXTENSIONS = (
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
)


def convert_scene(scene: SceneFile, collection_folder: Path, *, resolution_m: float = 10.0) -> pystac.Item:
    """Writes the COGs of one scene and returns its STAC item (not yet saved); asset hrefs are absolute paths.

    Raises:
        SceneFileError: See :func:`workflows.scene_cogs.write_scene_cogs`.
    """
    check_id(scene.item_id, "item id")
    return _item(write_scene_cogs(scene, collection_folder / scene.item_id, resolution_m=resolution_m))


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


def _item(written: WrittenScene) -> pystac.Item:
    scene, grid, footprint, folder = written.scene, written.grid, written.footprint, written.folder
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
    for name in scene.written:
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
        write_text(Path(href), txt)


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
    bands: Annotated[
        str, typer.Option(help="Band names in the file's order; SCL is a scene classification, '-' leaves one out.")
    ] = ",".join(SENTINEL2_BANDS),
    nodata: Annotated[float, typer.Option(help="Value without measurement, where the file does not say.")] = 0.0,
    cloud_cover: Annotated[float, typer.Option(min=0, max=100, help="Percent, as you know it.")] = 0.0,
    resolution: Annotated[float, typer.Option(min=1, help="Pixel size in metres.")] = 10.0,
    collection: Annotated[str, typer.Option(help="Collection id.")] = "local-scenes",
) -> None:
    """Converts local multi-band GeoTIFFs into single-band COGs with a static STAC catalog."""
    try:
        check_id(collection, "collection id")
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
