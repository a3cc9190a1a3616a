"""Writes a simulated Sentinel-2 Level-2A archive: COGs, STAC items, the true class map and a region to map.

Layout below the folder: ``scenes/<tile>/<time>/<band>.tif``, ``truth/<tile>.tif``, ``catalog.json`` (self-contained
static catalog of two collections: the scenes, and the truth in the manner of ESA WorldCover), ``items.json`` (what a
STAC API serves, with absolute hrefs), ``region.geojson``.
Scenes are drawn and written block by block; memory does not grow with the granule.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import shapely
from pyproj import Transformer

from pipeline.errors import OutputError
from pipeline.simulation import stac_items
from pipeline.simulation.biomes import Biome
from pipeline.simulation.clouds import SCL_CIRRUS, SCL_CLOUD_HIGH, SCL_CLOUD_MEDIUM, Clouds
from pipeline.simulation.cog_writer import CogWriter
from pipeline.simulation.granules import Granule, granule_grid
from pipeline.simulation.scene import OFFSET_DN, Acquisition, Frame, World, acquire
from pipeline.simulation.sensor import PAD_PX
from spex_core.bands import BANDS
from spex_core.legend import Legend

BLOCK_PX = 512
"""Side of the blocks in which scenes are drawn; bounds the memory."""

_GSD = {**{band.name: band.gsd_m for band in BANDS}, "SCL": stac_items.SCL_GSD_M}


@dataclass(frozen=True)
class SubRegionSpec:
    """One polygon of the region file."""

    id: str
    name: str
    ring: tuple[tuple[float, float], ...]
    """Corners as shares of the archive's extent: 0, 0 is its upper left, 1, 1 its lower right."""


@dataclass(frozen=True)
class ArchiveSpec:
    """Everything that decides an archive."""

    world: World
    granules: tuple[Granule, ...]
    acquisitions: tuple[Acquisition, ...]
    regions: tuple[SubRegionSpec, ...] = field(
        default=(SubRegionSpec("all", "All", ((0.02, 0.02), (0.98, 0.02), (0.98, 0.98), (0.02, 0.98))),)
    )
    style: stac_items.Style = "earth-search"
    projection: stac_items.Projection = "2"
    offset_applied: bool = False
    """Earth Search: the offset of baselines from 04.00 on is already taken away in the files."""


@dataclass(frozen=True)
class Archive:
    """What was written."""

    folder: Path
    items: tuple[dict[str, Any], ...]
    """STAC items of the scenes, with hrefs joined to the base URL."""
    truth: dict[str, Path]
    """Tile name → true class map (COG, uint8 WorldCover codes)."""
    region: Path
    """GeoJSON of the region and its sub-regions."""
    catalog: Path
    """Static STAC catalog with relative hrefs."""
    items_file: Path
    """Item collection with absolute hrefs, for a STAC API server."""


def write_archive(folder: Path, spec: ArchiveSpec, base_url: str) -> Archive:
    """Draws and writes a whole archive.

    Args:
        folder: Created if missing; must be empty.
        spec: What to write.
        base_url: URL (or absolute path) under which ``folder`` is served; joined to the hrefs of the items.

    Raises:
        OutputError: The folder holds files already, or cannot be written.
        ValueError: Two granules share a tile name.
    """
    if len({g.tile for g in spec.granules}) != len(spec.granules):
        raise ValueError(f"tile names are not unique: {', '.join(g.tile for g in spec.granules)}")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise OutputError(f"{folder} is not empty; give a new folder for the simulated archive")
        items = [item for granule in spec.granules for item in _write_granule(folder, spec, granule)]
        region = folder / "region.geojson"
        _write_json(region, region_geojson(spec))
        catalog = _write_catalog(folder, items, spec)
    except (OSError, rasterio.errors.RasterioError) as error:
        raise OutputError(f"simulated archive in {folder} cannot be written: {error}") from None
    published = publish_items(folder, base_url)
    return Archive(
        folder=folder,
        items=tuple(
            item
            for item in json.loads(published.read_text(encoding="utf-8"))["features"]
            if item["collection"] == stac_items.COLLECTION
        ),
        truth={g.tile: folder / "truth" / f"{g.tile}.tif" for g in spec.granules},
        region=region,
        catalog=catalog,
        items_file=published,
    )


def publish_items(folder: Path, base_url: str) -> Path:
    """(Re)writes ``items.json`` of an archive for the address it is served under, and returns its path.

    Raises:
        OutputError: The folder holds no archive.
    """
    folder = Path(folder)
    try:
        collections = (stac_items.COLLECTION, stac_items.LABEL_COLLECTION)
        paths = [path for name in collections for path in sorted((folder / name).glob("*/*.json"))]
        items = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    except (OSError, ValueError) as error:
        raise OutputError(f"archive in {folder} cannot be read: {error}") from error
    if not items:
        raise OutputError(f"{folder} holds no simulated archive")
    for item in items:
        for asset in item["assets"].values():
            asset["href"] = f"{base_url.rstrip('/')}/{asset['href'].removeprefix('../../')}"
        item["links"] = []
    target = folder / "items.json"
    _write_json(target, {"type": "FeatureCollection", "features": items})
    return target


def region_geojson(spec: ArchiveSpec) -> dict[str, Any]:
    """The region file as plain data: one feature with ``id`` and ``name`` per sub-region, lon/lat."""
    first = spec.granules[0].frame
    to_first = [Transformer.from_crs(g.frame.epsg, first.epsg, always_xy=True) for g in spec.granules]
    xs, ys = [], []
    for granule, transformer in zip(spec.granules, to_first, strict=True):
        f = granule.frame
        for x, y in ((f.left, f.top), (f.left + 10 * f.width, f.top - 10 * f.height)):
            moved = transformer.transform(x, y)
            xs.append(moved[0])
            ys.append(moved[1])
    west, east, south, north = min(xs), max(xs), min(ys), max(ys)
    to_lonlat = Transformer.from_crs(first.epsg, 4326, always_xy=True)
    features = []
    for sub in spec.regions:
        ring = shapely.Polygon([(west + fx * (east - west), north - fy * (north - south)) for fx, fy in sub.ring])
        lonlat = shapely.transform(
            shapely.orient_polygons(shapely.segmentize(ring, 2000.0)),
            lambda x, y: to_lonlat.transform(x, y),
            interleaved=False,
        )
        geometry = json.loads(shapely.to_geojson(shapely.set_precision(lonlat, 1e-7)))
        features.append({"type": "Feature", "properties": {"id": sub.id, "name": sub.name}, "geometry": geometry})
    return {"type": "FeatureCollection", "features": features}


def _blocks(frame: Frame) -> Iterator[tuple[int, int, Frame]]:
    for row in range(0, frame.height, BLOCK_PX):
        for col in range(0, frame.width, BLOCK_PX):
            height, width = min(BLOCK_PX, frame.height - row), min(BLOCK_PX, frame.width - col)
            yield row, col, Frame(frame.epsg, frame.left + 10 * col, frame.top - 10 * row, height, width)


def _write_granule(folder: Path, spec: ArchiveSpec, granule: Granule) -> list[dict[str, Any]]:
    """All dates of one granule at once, because they share the ground; returns items with relative hrefs."""
    places = [folder / "scenes" / granule.tile / f"{a.datetime:%Y%m%dT%H%M%S}" for a in spec.acquisitions]
    tallies = [_Tally() for _ in spec.acquisitions]
    truth = folder / "truth" / f"{granule.tile}.tif"
    for place in (*places, truth.parent):
        place.mkdir(parents=True, exist_ok=True)
    offsets = [
        OFFSET_DN if a.has_offset and not (spec.style == "earth-search" and spec.offset_applied) else 0
        for a in spec.acquisitions
    ]
    with ExitStack() as stack:
        truth_draft = stack.enter_context(CogWriter(truth, granule.frame, 10, "uint8", Legend.from_yaml().colormap()))
        drafts = [
            {
                name: stack.enter_context(
                    CogWriter(place / f"{name}.tif", granule.frame, gsd, "uint8" if name == "SCL" else "uint16")
                )
                for name, gsd in _GSD.items()
            }
            for place in places
        ]
        for row, col, block in _blocks(granule.frame):
            cover = spec.world.cover(block, PAD_PX)
            truth_draft.write(row, col, cover.code[PAD_PX:-PAD_PX, PAD_PX:-PAD_PX])
            for acquisition, offset, draft, tally in zip(spec.acquisitions, offsets, drafts, tallies, strict=True):
                scene = acquire(spec.world, acquisition, block, cover, offset)
                tally.count(scene.scl)
                for name, image in scene.bands.items():
                    draft[name].write(row, col, image)
                draft["SCL"].write(row, col, scene.scl)
        truth_draft.finish("mode")
        for draft in drafts:
            for name, band_draft in draft.items():
                band_draft.finish("mode" if name == "SCL" else "average")
    return [
        stac_items.stac_item(
            spec.style,
            spec.projection,
            granule,
            acquisition,
            {name: f"../../{(place / f'{name}.tif').relative_to(folder).as_posix()}" for name in _GSD},
            offset_applied=offset == 0,
            cloud_cover=tally.cloud_percent,
            nodata_share=tally.nodata_percent,
        )
        for acquisition, place, offset, tally in zip(spec.acquisitions, places, offsets, tallies, strict=True)
    ]


class _Tally:
    """Counts of a scene classification."""

    def __init__(self) -> None:
        self.pixels = np.zeros(256, np.int64)

    def count(self, scl: npt.NDArray[np.uint8]) -> None:
        self.pixels += np.bincount(scl.ravel(), minlength=256)

    @property
    def cloud_percent(self) -> float:
        clouds = self.pixels[[SCL_CLOUD_MEDIUM, SCL_CLOUD_HIGH, SCL_CIRRUS]].sum()
        return float(100.0 * clouds / max(self.pixels[1:].sum(), 1))

    @property
    def nodata_percent(self) -> float:
        return float(100.0 * self.pixels[0] / self.pixels.sum())


def _label_items(spec: ArchiveSpec) -> list[dict[str, Any]]:
    year = min(acquisition.datetime.year for acquisition in spec.acquisitions)
    legend = Legend.from_yaml()
    return [
        stac_items.label_item(spec.projection, granule, year, f"../../truth/{granule.tile}.tif", legend)
        for granule in spec.granules
    ]


def _write_catalog(folder: Path, items: list[dict[str, Any]], spec: ArchiveSpec) -> Path:
    """Catalog → collections → items, all links relative."""
    description = f"Drawn from seed {spec.world.seed}, biome {spec.world.biome.name}; no measurement of any real place."
    labels = _label_items(spec)
    collections = (
        stac_items.collection(items, description),
        stac_items.collection(labels, description, stac_items.LABEL_COLLECTION, "Simulated land cover"),
    )
    for collection, members in zip(collections, (items, labels), strict=True):
        _write_collection(folder, collection, members)
    catalog = {
        "type": "Catalog",
        "stac_version": collections[0]["stac_version"],
        "id": f"simulated-{spec.world.seed}",
        "description": description,
        "links": [
            {"rel": "root", "href": "./catalog.json", "type": "application/json"},
            *(
                {"rel": "child", "href": f"./{collection['id']}/collection.json", "type": "application/json"}
                for collection in collections
            ),
        ],
    }
    _write_json(folder / "catalog.json", catalog)
    return folder / "catalog.json"


def _write_collection(folder: Path, collection: dict[str, Any], items: list[dict[str, Any]]) -> None:
    name = collection["id"]
    for item in items:
        place = folder / name / item["id"] / f"{item['id']}.json"
        place.parent.mkdir(parents=True)
        links = [
            {"rel": rel, "href": href, "type": "application/json"}
            for rel, href in (
                ("root", "../../catalog.json"),
                ("parent", "../collection.json"),
                ("collection", "../collection.json"),
            )
        ]
        _write_json(place, {**item, "links": links})
    links = [
        {"rel": "root", "href": "../catalog.json", "type": "application/json"},
        {"rel": "parent", "href": "../catalog.json", "type": "application/json"},
        *({"rel": "item", "href": f"./{i['id']}/{i['id']}.json", "type": "application/geo+json"} for i in items),
    ]
    _write_json(folder / name / "collection.json", {**collection, "links": links})


def _write_json(path: Path, data: dict[str, Any]) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(draft, path)


_DEMO_BIOME = Biome(
    "demo",
    shrub=-0.35,
    farming=0.75,
    bare=-1.15,
    lakes=-1.25,
    wetland=0.7,
    towns=0.55,
    relief_m=760.0,
    snowline_m=655.0,
    treeline_m=430.0,
    conifer=0.45,
    hedges=0.3,
    pasture=0.3,
    parcel_m=170.0,
    river_m=90.0,
)

DEMO_SPEC = ArchiveSpec(
    world=World(seed=7, biome=_DEMO_BIOME),
    granules=granule_grid(32632, 640_000, 5_150_000, size_px=1024, overlap_px=128, columns=2),
    acquisitions=(
        Acquisition(
            dt.datetime(2026, 6, 18, 10, 15, 59, tzinfo=dt.UTC),
            Clouds(seed=21, level=-0.75, size_m=2200.0, cirrus=-2.2),
        ),
        Acquisition(
            dt.datetime(2026, 7, 3, 10, 15, 59, tzinfo=dt.UTC),
            Clouds(seed=37, level=-0.9, size_m=2600.0, base_m=1200.0),
            haze=0.012,
            sun_azimuth_deg=150.0,
            sun_elevation_deg=58.0,
        ),
    ),
    regions=(
        SubRegionSpec(
            "north-valley", "North valley", ((0.03, 0.05), (0.52, 0.03), (0.50, 0.46), (0.30, 0.53), (0.04, 0.49))
        ),
        SubRegionSpec(
            "eastern-hills", "Eastern hills", ((0.52, 0.03), (0.90, 0.03), (0.97, 0.14), (0.96, 0.52), (0.50, 0.46))
        ),
        SubRegionSpec(
            "river-plain", "River plain", ((0.04, 0.49), (0.30, 0.53), (0.50, 0.46), (0.54, 0.96), (0.08, 0.95))
        ),
        SubRegionSpec("great-forest", "Great forest", ((0.50, 0.46), (0.96, 0.52), (0.95, 0.95), (0.54, 0.96))),
    ),
)
"""What ``spex demo`` maps: two granules side by side, two dates, all nine classes, clouds in different places."""
