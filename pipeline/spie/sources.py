"""From the file of a data set to its sites: one search per area, frozen in the build's state; local files by name.

A search is made once per build: what it found is kept, so that a build that goes on after a kill sees the same scenes.
"""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import shapely

from pipeline.errors import BadInputError, StoreError
from pipeline.machine.atomic_files import write_json
from pipeline.records.region import Region, read_region
from pipeline.records.scene import Scene
from pipeline.sources.catalog import asset_door, find_scenes
from pipeline.spie.config import AreaConfig, LocalConfig, SpieConfig
from pipeline.spie.labels import LabelFile, LabelSource, code_table, find_labels, label_catalog, unused_code
from pipeline.spie.sites import AreaSite, LocalSite, Site, image_grid, local_label_file
from spex_core.legend import Legend

logger = logging.getLogger(__name__)

SENTINEL2_LICENCE = (
    "Copernicus Sentinel data: free, full and open (Legal notice on the use of Copernicus Sentinel Data); "
    "contains modified Copernicus Sentinel data"
)

UNSPECIFIED = "unspecified (imagery_licence)"
"""Of imagery from a catalog of the user's own, where the file does not say."""


def open_sites(config: SpieConfig, legend: Legend, frozen: Path) -> list[Site]:
    """All sites of a data set, in the order of its file.

    Args:
        config: The file.
        legend: Its codes are what labels are mapped to.
        frozen: Where the search is kept; read if it exists.

    Raises:
        BadInputError: A region, image or code table is wrong, or nothing matches.
        CatalogError: A catalog does not answer.
        StoreError: The frozen search is damaged.
    """
    return [*_area_sites(config, legend, frozen), *_local_sites(config, legend)]


def local_pairs(config: SpieConfig) -> list[tuple[LocalConfig, Path, Path]]:
    """(entry, image, label) of every local image, sorted by image within its entry.

    Raises:
        BadInputError: A pattern matches nothing, a label is missing, or an image is named twice.
    """
    pairs: list[tuple[LocalConfig, Path, Path]] = []
    seen: set[Path] = set()
    for entry in config.local:
        images = sorted(Path(name) for name in glob.glob(entry.image, recursive=True))
        if not images:
            raise BadInputError(f"local.image {entry.image} matches no file")
        for image in images:
            label = Path(entry.label.replace("{stem}", image.stem))
            if not label.is_file():
                raise BadInputError(f"image {image}: its label {label} is not a file; see local.label")
            if image.resolve() in seen:
                raise BadInputError(f"image {image} is named twice in local")
            seen.add(image.resolve())
            pairs.append((entry, image, label))
    return pairs


def _local_sites(config: SpieConfig, legend: Legend) -> Iterator[Site]:
    for number, (entry, image, label) in enumerate(local_pairs(config)):
        codes = code_table(entry.codes, legend, "local.codes")
        grid = image_grid(image, entry)
        labels = LabelSource(
            title="local labels",
            collection=None,
            files=(local_label_file(label, grid, entry),),
            codes=codes,
            nodata=unused_code(codes),
            provider="generic",
            unlabelled=legend.nodata,
        )
        yield LocalSite(entry, number, image, grid, labels, config.chips)


def _area_sites(config: SpieConfig, legend: Legend, frozen: Path) -> Iterator[Site]:
    if not config.areas:
        return
    found = _thawed(frozen)
    regions = [read_region(area.region) for area in config.areas]
    if found is None:
        found = [_search(config, area, region, legend) for area, region in zip(config.areas, regions, strict=True)]
        write_json(frozen, [_to_json(scenes, labels) for scenes, labels in found])
    public = SENTINEL2_LICENCE if all(one.url is None for one in config.source.catalogs) else UNSPECIFIED
    licence = config.imagery_licence or public
    door, label_door = asset_door(config.source), asset_door(label_catalog(config.labels))
    for area, region, (scenes, labels) in zip(config.areas, regions, found, strict=True):
        labels = replace(labels, door=label_door)
        for epsg in sorted(region.utm_epsgs()):
            part = region.zone_geometry(epsg)
            here = tuple(s for s in scenes if shapely.from_geojson(json.dumps(s.footprint)).intersects(part))
            if here:
                yield AreaSite(area, part, epsg, here, labels, config.composite, config.chips, licence, door)


def _search(
    config: SpieConfig, area: AreaConfig, region: Region, legend: Legend
) -> tuple[tuple[Scene, ...], LabelSource]:
    search = find_scenes(config.source, region, area.start, area.end)
    for item, reason in search.skipped:
        logger.warning("%s is not used: %s", item, reason)
    return search.scenes, find_labels(config.labels, legend, region)


def _to_json(scenes: tuple[Scene, ...], labels: LabelSource) -> dict[str, Any]:
    return {
        "scenes": [scene.to_dict() for scene in scenes],
        "labels": {
            "title": labels.title,
            "collection": labels.collection,
            "provider": labels.provider,
            "nodata": labels.nodata,
            "unlabelled": labels.unlabelled,
            "codes": sorted(labels.codes.items()),
            "files": [
                {**vars(file), "footprint": json.loads(shapely.to_geojson(file.footprint))} for file in labels.files
            ],
        },
    }


def _thawed(path: Path) -> list[tuple[tuple[Scene, ...], LabelSource]] | None:
    if not path.exists():
        return None
    try:
        return [_from_json(entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError, shapely.errors.GEOSException) as error:
        raise StoreError(f"{path} is damaged ({error}); remove its folder, and the search is made again") from error


def _from_json(entry: dict[str, Any]) -> tuple[tuple[Scene, ...], LabelSource]:
    labels = dict(entry["labels"])
    labels["codes"] = {int(a): int(b) for a, b in labels["codes"]}
    labels["files"] = tuple(
        LabelFile(**{**file, "footprint": shapely.from_geojson(json.dumps(file["footprint"]))})
        for file in labels["files"]
    )
    return tuple(Scene.from_dict(scene) for scene in entry["scenes"]), LabelSource(**labels)
