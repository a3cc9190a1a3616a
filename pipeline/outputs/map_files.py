"""The files of one map: rasters, texts, tables, style, picture, plan and provenance, in its item's folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import shapely
from shapely.geometry.base import BaseGeometry

from pipeline.errors import OutputError
from pipeline.explain.files import write_explanations
from pipeline.explain.sentences import RegionExplanation
from pipeline.machine.atomic_files import discard, renew_json
from pipeline.mapstore.journal import JournalState
from pipeline.mapstore.layers import PICTURE, UNFAMILIAR
from pipeline.mapstore.store import RunStore
from pipeline.outputs import cog, run_facts, stac_item
from pipeline.outputs.assets import ASSETS
from pipeline.outputs.class_polygons import write_class_polygons
from pipeline.outputs.mosaic import mosaic_grid, write_mosaic
from pipeline.outputs.provenance import plan_document, provenance_document
from pipeline.outputs.qgis_style import write_style
from pipeline.outputs.region_tables import write_regions_csv, write_regions_parquet
from pipeline.outputs.thumbnail import write_thumbnail
from pipeline.outputs.unfamiliar import write_unfamiliar_cog
from pipeline.predict.stitch import CONFIDENCE_NODATA
from pipeline.records.plan import ZonePlan
from spex_core.true_color import TRUE_COLOR_BANDS

if TYPE_CHECKING:
    from pipeline.planning.prepare import Prepared


@dataclass(frozen=True)
class MapPlace:
    """Where one map goes: a zone's, or that of all zones joined."""

    zone: ZonePlan
    """Of a joined map: its grid and the scenes of all zones, and no blocks."""
    item: str
    folder: Path
    geometry: BaseGeometry
    """The mapped part of the region, lon/lat."""
    joined: bool = False


def map_places(prepared: Prepared) -> list[MapPlace]:
    """Of all maps that a run publishes, zones first.

    Raises:
        OutputError: ``publish.mosaic`` names the system of a zone, whose map it is already.
    """
    config, zones = prepared.config, prepared.plan.zones
    places = [_place(prepared, zone, prepared.zone_areas[zone.grid.epsg]) for zone in zones]
    if config.publish.mosaic is None:
        return places
    epsg = int(config.publish.mosaic.removeprefix("EPSG:"))
    if epsg in (zone.grid.epsg for zone in zones):
        raise OutputError(f"publish.mosaic {config.publish.mosaic} is the system of a zone of this map: leave it out")
    scenes = tuple(dict.fromkeys(scene for zone in zones for scene in zone.scene_ids))
    whole = shapely.union_all([prepared.zone_areas[zone.grid.epsg] for zone in zones])
    joined = ZonePlan(mosaic_grid([zone.grid for zone in zones], epsg), (), scenes)
    return [*places, _place(prepared, joined, whole, joined=True)]


def _place(prepared: Prepared, zone: ZonePlan, geometry: BaseGeometry, joined: bool = False) -> MapPlace:
    config = prepared.config
    item = stac_item.item_id(config.name, config.start, config.end, zone.grid.epsg)
    folder = stac_item.item_folder(config.output, config.publish.collection_id, item)
    return MapPlace(zone, item, folder, geometry, joined)


def write_joined(place: MapPlace, zones: list[MapPlace], prepared: Prepared) -> None:
    """Writes the rasters of a joined map from those of its zones.

    Raises:
        CogError: Not writable.
    """
    legend, tags = prepared.legend, _tags(prepared)
    kinds = {"landcover": legend.nodata, "confidence": CONFIDENCE_NODATA}
    for key, kind in ASSETS.items():
        if kind.pixels is not None and key not in kinds:
            discard(place.folder / kind.file)
    for key in kinds:
        file = ASSETS[key].file
        sources = [zone.folder / file for zone in zones]
        write_mosaic(sources, place.folder / file, place.zone.grid, legend if key == "landcover" else None, tags)


def _tags(prepared: Prepared) -> dict[str, str]:
    # Neither a time nor a machine: the same plan gives the same bytes.
    config = prepared.config
    return {
        "SPEX_RUN_ID": prepared.plan.run_id,
        "SPEX_RUN_NAME": config.name,
        "SPEX_PERIOD": f"{config.start}/{config.end}",
        "SPEX_LEGEND": prepared.legend.name,
        "SPEX_MODEL": run_facts.model_name(prepared),
    }


def raster_kinds(prepared: Prepared, store: RunStore) -> tuple[str, ...]:
    """Rasters that the run file asks for, and the store can give."""
    seen = set(TRUE_COLOR_BANDS) <= set(prepared.config.source.bands)
    picture = seen and all(store.zone(zone.grid.epsg).has(PICTURE) for zone in prepared.plan.zones)
    scores = prepared.config.publish.scores
    unfamiliar = all(store.zone(zone.grid.epsg).has(UNFAMILIAR) for zone in prepared.plan.zones)
    optional = (("unfamiliar", unfamiliar), ("truecolor", picture), ("scores", scores))
    return ("landcover", "confidence", "valid_count", *(key for key, wanted in optional if wanted))


def raster_writers(place: MapPlace, prepared: Prepared, store: RunStore) -> tuple[Callable[[], Path], ...]:
    """What writes the rasters of a zone; those that are not asked for go: they would be of another run."""
    config, zone, legend = prepared.config, store.zone(place.zone.grid.epsg), prepared.legend
    tags = _tags(prepared)
    resampling = config.publish.overview_resampling
    file = {key: place.folder / ASSETS[key].file for key, kind in ASSETS.items() if kind.pixels is not None}
    observed = cog.Observed(
        frozenset(index for epsg, index in store.state().finished if epsg == place.zone.grid.epsg),
        place.geometry if config.publish.clip else None,
    )
    writers: dict[str, Callable[[], Path]] = {
        "landcover": lambda: cog.write_landcover_cog(
            zone, file["landcover"], legend, overview_resampling=resampling, tags=tags
        ),
        "confidence": lambda: cog.write_confidence_cog(zone, file["confidence"], tags=tags),
        "valid_count": lambda: cog.write_valid_count_cog(zone, file["valid_count"], observed, tags=tags),
        "unfamiliar": lambda: write_unfamiliar_cog(zone, file["unfamiliar"], legend, tags=tags),
        "truecolor": lambda: cog.write_truecolor_cog(zone, file["truecolor"], tags=tags),
        "scores": lambda: cog.write_scores_cog(zone, file["scores"], legend, tags=tags),
    }
    wanted = raster_kinds(prepared, store)
    for key in file.keys() - set(wanted):
        discard(file[key])
    return tuple(writers[key] for key in wanted)


def write_documents(
    place: MapPlace, prepared: Prepared, explanations: tuple[RegionExplanation, ...], state: JournalState
) -> None:
    """All files of an item but rasters and report.

    Raises:
        OutputError: The folder cannot be written.
        ReadError: The map cannot be read again.
    """
    config, plan, legend, folder = prepared.config, prepared.plan, prepared.legend, place.folder
    regions = [e.statistics for e in _write_texts(place, prepared, explanations)]
    start, end = config.start.isoformat(), config.end.isoformat()
    write_regions_csv(folder / ASSETS["regions"].file, regions, place.item, start, end)
    write_regions_parquet(folder / ASSETS["regions_parquet"].file, regions, legend, place.item, start, end)
    polygons = folder / ASSETS["polygons"].file
    if config.publish.polygons:
        smooth = config.publish.polygons == "smooth"
        write_class_polygons(folder / ASSETS["landcover"].file, polygons, legend, place.item, smooth=smooth)
    else:
        discard(polygons)
    write_style(folder / ASSETS["style"].file, legend)
    landcover, thumbnail = folder / ASSETS["landcover"].file, folder / ASSETS["thumbnail"].file
    write_thumbnail(landcover, thumbnail, legend, with_legend=True)
    renew_json(folder / ASSETS["plan"].file, plan_document(plan, place.zone))
    _write_provenance(place, prepared, state)


def renew_texts(
    place: MapPlace, prepared: Prepared, explanations: tuple[RegionExplanation, ...], state: JournalState
) -> None:
    """The texts of an item once more, and its checksums, when the model has said something.

    Raises:
        OutputError: The folder cannot be written.
    """
    _write_texts(place, prepared, explanations)
    _write_provenance(place, prepared, state)


def _write_texts(
    place: MapPlace, prepared: Prepared, explanations: tuple[RegionExplanation, ...]
) -> list[RegionExplanation]:
    """``explanations.json`` and ``.md``; returns the sub-regions that they tell of."""
    config, legend = prepared.config, prepared.legend
    epsg = place.zone.grid.epsg
    # A sub-region too small for a pixel belongs to no zone: it is told beside every map rather than left out.
    here = [e for e in explanations if place.joined or epsg in e.statistics.epsgs or not e.statistics.epsgs]
    start, end = config.start.isoformat(), config.end.isoformat()
    header = {
        "run_id": prepared.plan.run_id,
        "name": config.name,
        "item": place.item,
        "start": start,
        "end": end,
        "legend": legend.name,
        "model": run_facts.model_name(prepared),
        "crs": f"EPSG:{epsg}",
    }
    write_explanations(place.folder, here, title=f"{config.name}, {config.start} to {config.end}", header=header)
    return here


def _write_provenance(place: MapPlace, prepared: Prepared, state: JournalState) -> None:
    plan, folder = prepared.plan, place.folder
    provenance = provenance_document(
        plan,
        place.zone,
        folder,
        item=place.item,
        model={"name": run_facts.model_name(prepared), "fingerprint": prepared.fingerprint},
        lineage=run_facts.lineage(prepared, len(place.zone.scene_ids)),
        notes=run_facts.notes({scene.id: scene for scene in plan.scenes}, state, place.zone),
        skipped=prepared.search.skipped,
    )
    renew_json(folder / ASSETS["provenance"].file, provenance)
