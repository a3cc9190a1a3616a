"""From a finished store to what people open: COGs, statistics, explanations, thumbnail, STAC catalog, report."""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib.metadata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.explain.files import write_explanations
from pipeline.explain.sentences import RegionExplanation, explain_map
from pipeline.explain.statistics import MapStatistics, ZoneLayers, map_statistics
from pipeline.machine.atomic_files import discard, renew_json, write_text
from pipeline.machine.own_files import own_folder
from pipeline.machine.processors import cpu_count
from pipeline.machine.progress import Progress, duration_text
from pipeline.mapstore.journal import JournalState
from pipeline.mapstore.store import RunStore
from pipeline.outputs import cog, run_facts, stac_catalog, stac_item, stac_model
from pipeline.outputs.assets import ASSETS, ITEM_FILES
from pipeline.outputs.cog_writer import small_cache
from pipeline.outputs.imprint import Imprint
from pipeline.outputs.output_folder import REPORT_FOLDER, check_items, check_output
from pipeline.outputs.provenance import plan_document, provenance_document
from pipeline.outputs.qgis_style import write_style
from pipeline.outputs.region_tables import write_regions_csv, write_regions_parquet
from pipeline.outputs.report import Accuracy, ReportContext, map_picture, render_report
from pipeline.outputs.thumbnail import write_thumbnail
from pipeline.records.plan import ZonePlan
from pipeline.settings.model import INDEX_RULES

if TYPE_CHECKING:
    from pipeline.planning.prepare import Prepared


@dataclass(frozen=True)
class Publication:
    """What was written."""

    outputs: dict[str, tuple[Path, ...]]
    statistics: MapStatistics


@dataclass(frozen=True)
class _ZoneMap:
    """One zone's item folder."""

    zone: ZonePlan
    item: str
    folder: Path


def publish_run(
    prepared: Prepared,
    store: RunStore,
    progress: Progress,
    accuracy: Accuracy | None,
    *,
    seconds: float,
    created: dt.datetime | None = None,
) -> Publication:
    """Writes every file of a run below its output folder, each atomically.

    All that belongs to a map lies in its item's folder. The items come after their files, which they list only if they
    are there; the root catalog comes last, so a reader that starts there finds only what is complete.

    Args:
        prepared: What was decided before the run.
        store: Its finished blocks.
        progress: Advanced with each file.
        accuracy: Measured against a reference, for the report.
        seconds: How long the run took so far.
        created: Time that enters the catalog and the page (never a raster), UTC; default: now.

    Raises:
        CogError: A raster cannot be written.
        OutputError: The folder cannot be written.
        StoreError: The store is damaged.
    """
    config, plan, legend = prepared.config, prepared.plan, prepared.legend
    created = created or dt.datetime.now(dt.UTC)
    check_places(prepared)
    maps = [_zone_map(prepared, zone) for zone in plan.zones]
    for place in maps:
        own_folder(config.output, config.publish.collection_id, place.item)
    own_folder(config.output, REPORT_FOLDER)
    progress.start("publishing", len(_raster_kinds(prepared)) * len(maps) + 3, "files")
    with small_cache():
        statistics = _write_rasters_and_measure(maps, prepared, store, progress)
    explanations = explain_map(statistics, legend)
    progress.advance()
    state = store.state()
    for place in maps:
        _write_documents(place, prepared, explanations, state)
    _write_reports(maps, prepared, statistics, explanations, state, accuracy, seconds, created)
    progress.advance()
    files = _write_catalog(maps, prepared, statistics, state, accuracy, created)
    for gone in files.removed:
        progress.say(f"removed {gone}: an earlier run of this name and period made it, the region no longer reaches it")
    progress.advance()
    outputs: dict[str, tuple[Path, ...]] = {
        "catalog": (files.catalog,),
        "collection": (files.collection,),
        "items_parquet": (files.parquet,),
        "index": (files.index,),
        "items": files.items,
    }
    for kind, asset in ASSETS.items():
        if all((place.folder / asset.file).is_file() for place in maps):
            outputs[kind] = tuple(place.folder / asset.file for place in maps)
    return Publication(outputs, statistics)


def check_places(prepared: Prepared) -> None:
    """Asks whether everything that :func:`publish_run` writes can take its place; writes nothing.

    Raises:
        OutputError: Something is in the way; the message says what to change.
    """
    config = prepared.config
    check_output(config.output, config.publish.collection_id)
    items = [_zone_map(prepared, zone).item for zone in prepared.plan.zones]
    check_items(config.output, config.publish.collection_id, items, ITEM_FILES)


def _zone_map(prepared: Prepared, zone: ZonePlan) -> _ZoneMap:
    config = prepared.config
    item = stac_item.item_id(config.name, config.start, config.end, zone.grid.epsg)
    return _ZoneMap(zone, item, stac_item.item_folder(config.output, config.publish.collection_id, item))


def _write_rasters_and_measure(
    maps: list[_ZoneMap], prepared: Prepared, store: RunStore, progress: Progress
) -> MapStatistics:
    """All files of all zones and the statistics at the same time: GDAL and NumPy work outside the interpreter's lock,
    and each file has one thread, so that its bytes are the same."""
    layers = [_zone_layers(place.zone, prepared, store) for place in maps]
    areas, name, legend = prepared.region.subregions, prepared.config.name, prepared.legend
    pool = ThreadPoolExecutor(cpu_count(), thread_name_prefix="spex-publish")
    try:
        measured = pool.submit(map_statistics, name, areas, layers, legend)
        written = [pool.submit(write) for place in maps for write in _raster_writers(place, prepared, store)]
        for file in as_completed(written):
            file.result()
            progress.advance()
        return measured.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _raster_kinds(prepared: Prepared) -> tuple[str, ...]:
    """Rasters that the run file asks for."""
    return ("landcover", "confidence", "valid_count", *(("scores",) if prepared.config.publish.scores else ()))


def _raster_writers(place: _ZoneMap, prepared: Prepared, store: RunStore) -> tuple[Callable[[], Path], ...]:
    """What writes the rasters of a zone; those that are not asked for go: they would be of another run."""
    config, zone, legend = prepared.config, store.zone(place.zone.grid.epsg), prepared.legend
    # Neither a time nor a machine: the same plan gives the same bytes.
    tags = {
        "SPEX_RUN_ID": prepared.plan.run_id,
        "SPEX_RUN_NAME": config.name,
        "SPEX_PERIOD": f"{config.start}/{config.end}",
        "SPEX_LEGEND": legend.name,
        "SPEX_MODEL": run_facts.model_name(prepared),
    }
    resampling = config.publish.overview_resampling
    file = {key: place.folder / ASSETS[key].file for key, kind in ASSETS.items() if kind.pixels is not None}
    observed = cog.Observed(
        frozenset(index for epsg, index in store.state().finished if epsg == place.zone.grid.epsg),
        prepared.zone_areas[place.zone.grid.epsg] if config.publish.clip else None,
    )
    writers: dict[str, Callable[[], Path]] = {
        "landcover": lambda: cog.write_landcover_cog(
            zone, file["landcover"], legend, overview_resampling=resampling, tags=tags
        ),
        "confidence": lambda: cog.write_confidence_cog(zone, file["confidence"], tags=tags),
        "valid_count": lambda: cog.write_valid_count_cog(zone, file["valid_count"], observed, tags=tags),
        "scores": lambda: cog.write_scores_cog(zone, file["scores"], legend, tags=tags),
    }
    wanted = _raster_kinds(prepared)
    for key in file.keys() - set(wanted):
        discard(file[key])
    return tuple(writers[key] for key in wanted)


def _zone_layers(zone: ZonePlan, prepared: Prepared, store: RunStore) -> ZoneLayers:
    epsg = zone.grid.epsg
    windows = tuple(block.window for block in zone.blocks)
    return ZoneLayers(zone.grid, windows, store.zone(epsg), prepared.zone_areas[epsg])


def _write_documents(
    place: _ZoneMap, prepared: Prepared, explanations: tuple[RegionExplanation, ...], state: JournalState
) -> None:
    """All files of an item but rasters and report."""
    config, plan, legend, folder = prepared.config, prepared.plan, prepared.legend, place.folder
    epsg = place.zone.grid.epsg
    # A sub-region too small for a pixel belongs to no zone: it is told beside every map rather than left out.
    here = [e for e in explanations if epsg in e.statistics.epsgs or not e.statistics.epsgs]
    start, end = config.start.isoformat(), config.end.isoformat()
    header = {
        "run_id": plan.run_id,
        "name": config.name,
        "item": place.item,
        "start": start,
        "end": end,
        "legend": legend.name,
        "model": run_facts.model_name(prepared),
        "crs": f"EPSG:{epsg}",
    }
    write_explanations(folder, here, title=f"{config.name}, {config.start} to {config.end}", header=header)
    regions = [e.statistics for e in here]
    write_regions_csv(folder / ASSETS["regions"].file, regions, place.item, start, end)
    write_regions_parquet(folder / ASSETS["regions_parquet"].file, regions, legend, place.item, start, end)
    write_style(folder / ASSETS["style"].file, legend)
    landcover, thumbnail = folder / ASSETS["landcover"].file, folder / ASSETS["thumbnail"].file
    write_thumbnail(landcover, thumbnail, legend, with_legend=True)
    renew_json(folder / ASSETS["plan"].file, plan_document(plan, place.zone))
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


def _write_catalog(
    maps: list[_ZoneMap],
    prepared: Prepared,
    statistics: MapStatistics,
    state: JournalState,
    accuracy: Accuracy | None,
    created: dt.datetime,
) -> stac_catalog.CatalogFiles:
    config, plan, legend = prepared.config, prepared.plan, prepared.legend
    collection = config.publish.collection_id
    overall = statistics.overall if len(maps) == 1 else None  # of all zones together: no figure of one of several
    imprint = Imprint.of(config.publish)
    card = stac_model.ModelCard(
        name=run_facts.model_name(prepared),
        fingerprint=prepared.fingerprint,
        legend=legend,
        tile_px=config.tiling.tile_px,
        framework_version=plan.software.get("torch", "none"),
        created=created,
    )
    if config.model.checkpoint == INDEX_RULES:
        card = dataclasses.replace(card, architecture="Spectral index rules of the legend")
    scenes = {scene.id: scene for scene in plan.scenes}
    items = []
    for place in maps:
        epsg = place.zone.grid.epsg
        product = stac_item.MapProduct(
            run_name=config.name,
            run_id=plan.run_id,
            start=config.start,
            end=config.end,
            grid=place.zone.grid,
            geometry=prepared.zone_areas[epsg],
            legend=legend,
            scenes=tuple(scenes[scene_id] for scene_id in place.zone.scene_ids),
            software=plan.software,
            version=importlib.metadata.version("spex-landcover"),
            created=created,
            lineage=run_facts.lineage(prepared, len(place.zone.scene_ids)),
            class_pixels=statistics.zone_pixels.get(epsg, {}),
            observed_share=overall.observed_share if overall else None,
            mean_confidence=overall.mean_confidence if overall else None,
            missing_blocks=run_facts.missing_blocks(state, place.zone),
            problems=run_facts.notes(scenes, state, place.zone)[: run_facts.MAX_PROBLEMS],
            skipped_scenes=prepared.search.skipped,
            accuracy=run_facts.accuracy_fields(accuracy),
            imprint=imprint,
        )
        link = stac_model.model_link(card, collection)
        items.append(stac_item.map_item(product, place.folder, collection, model_link=link))
    return stac_catalog.publish(
        config.output,
        collection,
        items,
        legend,
        model=stac_model.model_item(card, collection),
        resolution_m=config.tiling.resolution_m,
        imprint=imprint,
    )


def _write_reports(
    maps: list[_ZoneMap],
    prepared: Prepared,
    statistics: MapStatistics,
    explanations: tuple[RegionExplanation, ...],
    state: JournalState,
    accuracy: Accuracy | None,
    seconds: float,
    created: dt.datetime,
) -> None:
    """The page of the run, which shows all its zones, into each of its items: a folder that is given away has it."""
    config, plan = prepared.config, prepared.plan
    scenes = {scene.id: scene for scene in plan.scenes}
    used = {scene_id for place in maps for scene_id in place.zone.scene_ids}
    areas = [(area.id, area.name, area.geometry) for area in prepared.region.subregions]
    pictures = tuple(
        map_picture(
            place.folder / "landcover.tif",
            place.zone.grid,
            prepared.legend,
            areas,
            title=f"{config.name}, EPSG:{place.zone.grid.epsg}",
        )
        for place in maps
    )
    page = render_report(
        ReportContext(
            title=f"Land cover: {config.name}",
            run_name=config.name,
            run_id=plan.run_id,
            start=config.start,
            end=config.end,
            created=created,
            legend=prepared.legend,
            statistics=statistics,
            explanations=explanations,
            pictures=pictures,
            scenes=tuple(scene for scene in plan.scenes if scene.id in used),
            software=plan.software,
            model=run_facts.model_name(prepared),
            items=tuple(place.folder.relative_to(config.output).as_posix() for place in maps),
            skipped_scenes=prepared.search.skipped,
            problems=tuple(
                dict.fromkeys(note for place in maps for note in run_facts.notes(scenes, state, place.zone))
            ),
            missing_blocks=sum(len(run_facts.missing_blocks(state, place.zone)) for place in maps),
            accuracy=accuracy,
            figures={"Computed in": duration_text(seconds)},
        ),
    )
    for place in maps:
        write_text(place.folder / ASSETS["report"].file, page)
