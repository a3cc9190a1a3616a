"""From a finished store to what people open: COGs, statistics, explanations, thumbnail, STAC catalog, report."""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.explain.region_words import RegionWords, Spoken
from pipeline.explain.sentences import RegionExplanation, explain_map
from pipeline.explain.statistics import MapStatistics, ZoneLayers, map_statistics
from pipeline.machine.atomic_files import write_text
from pipeline.machine.own_files import own_folder
from pipeline.machine.processors import cpu_count
from pipeline.machine.progress import Progress, duration_text
from pipeline.mapstore.journal import JournalState
from pipeline.mapstore.layers import UNFAMILIAR
from pipeline.mapstore.store import RunStore
from pipeline.outputs import run_facts, stac_catalog, stac_item, stac_model
from pipeline.outputs.assets import ASSETS, ITEM_FILES
from pipeline.outputs.cog_writer import small_cache
from pipeline.outputs.imprint import Imprint
from pipeline.outputs.map_files import (
    MapPlace,
    map_places,
    raster_kinds,
    raster_writers,
    renew_texts,
    write_documents,
    write_joined,
)
from pipeline.outputs.output_folder import REPORT_FOLDER, check_items, check_output
from pipeline.outputs.report import Accuracy, ReportContext, map_picture, render_report
from pipeline.outputs.view_page import page_files
from pipeline.records.plan import ZonePlan
from pipeline.settings.model import INDEX_RULES
from pipeline.settings.published import is_published

if TYPE_CHECKING:
    from pipeline.planning.prepare import Prepared


WordsOf = Callable[[MapStatistics, Sequence[ZoneLayers]], Mapping[str, RegionWords]]
"""Statistics and layers of a map → what the model says, by id of the sub-region."""


@dataclass(frozen=True)
class Publication:
    """What was written."""

    outputs: dict[str, tuple[Path, ...]]
    statistics: MapStatistics


def publish_run(
    prepared: Prepared,
    store: RunStore,
    progress: Progress,
    accuracy: Accuracy | None,
    *,
    seconds: float,
    created: dt.datetime | None = None,
    words: WordsOf | None = None,
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
        words: Asks the model about the sub-regions once everything else is published; what it says is then added to the
            texts.

    Raises:
        CogError: A raster cannot be written.
        OutputError: The folder cannot be written.
        StoreError: The store is damaged.
    """
    config, legend = prepared.config, prepared.legend
    created = created or dt.datetime.now(dt.UTC)
    check_places(prepared)
    maps = map_places(prepared)
    zones = [place for place in maps if not place.joined]
    for place in maps:
        own_folder(config.output, config.publish.collection_id, place.item)
    own_folder(config.output, REPORT_FOLDER)
    progress.start("publishing", len(raster_kinds(prepared, store)) * len(zones) + 3, "files")
    with small_cache():
        statistics = _write_rasters_and_measure(zones, prepared, store, progress)
        for place in maps:
            if place.joined:
                write_joined(place, zones, prepared)
    explanations = explain_map(statistics, legend)
    progress.advance()
    state = store.state()
    for place in maps:
        write_documents(place, prepared, explanations, state)
    _write_reports(maps, prepared, statistics, explanations, state, accuracy, seconds, created)
    progress.advance()
    files = _write_catalog(maps, prepared, statistics, state, accuracy, created)
    for gone in files.removed:
        progress.say(f"removed {gone}: an earlier run of this name and period made it, the region no longer reaches it")
    progress.advance()
    if words is not None and (said := words(statistics, [_zone_layers(z.zone, prepared, store) for z in zones])):
        explanations = tuple(dataclasses.replace(e, words=said.get(e.statistics.id)) for e in explanations)
        for place in maps:
            renew_texts(place, prepared, explanations, state)
        _write_reports(maps, prepared, statistics, explanations, state, accuracy, seconds, created)
        files = _write_catalog(maps, prepared, statistics, state, accuracy, created)
    outputs: dict[str, tuple[Path, ...]] = {
        "catalog": (files.catalog,),
        "collection": (files.collection,),
        "items_parquet": (files.parquet,),
        "index": (files.index,),
        "items": files.items,
    }
    for kind, asset in ASSETS.items():
        written = tuple(path for place in maps if (path := place.folder / asset.file).is_file())
        if written:
            outputs[kind] = written
    return Publication(outputs, statistics)


def check_places(prepared: Prepared) -> None:
    """Asks whether everything that :func:`publish_run` writes can take its place; writes nothing.

    Raises:
        InstallationError: The library of the page is not there.
        OutputError: Something is in the way; the message says what to change.
    """
    config = prepared.config
    check_output(config.output, config.publish.collection_id)
    page_files()
    items = [place.item for place in map_places(prepared)]
    check_items(config.output, config.publish.collection_id, items, ITEM_FILES)


def _write_rasters_and_measure(
    maps: list[MapPlace], prepared: Prepared, store: RunStore, progress: Progress
) -> MapStatistics:
    """All files of all zones and the statistics at the same time: GDAL and NumPy work outside the interpreter's lock,
    and each file has one thread, so that its bytes are the same."""
    layers = [_zone_layers(place.zone, prepared, store) for place in maps]
    areas, name, legend = prepared.region.subregions, prepared.config.name, prepared.legend
    pool = ThreadPoolExecutor(cpu_count(), thread_name_prefix="spex-publish")
    try:
        measured = pool.submit(map_statistics, name, areas, layers, legend)
        written = [pool.submit(write) for place in maps for write in raster_writers(place, prepared, store)]
        for file in as_completed(written):
            file.result()
            progress.advance()
        return measured.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _zone_layers(zone: ZonePlan, prepared: Prepared, store: RunStore) -> ZoneLayers:
    epsg = zone.grid.epsg
    windows = tuple(block.window for block in zone.blocks)
    kept = store.zone(epsg)
    return ZoneLayers(zone.grid, windows, kept, prepared.zone_areas[epsg], kept.has(UNFAMILIAR))


def _write_catalog(
    maps: list[MapPlace],
    prepared: Prepared,
    statistics: MapStatistics,
    state: JournalState,
    accuracy: Accuracy | None,
    created: dt.datetime,
) -> stac_catalog.CatalogFiles:
    config, plan, legend = prepared.config, prepared.plan, prepared.legend
    collection = config.publish.collection_id
    overall = statistics.overall if len(plan.zones) == 1 else None  # of all zones together: no figure of one of several
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
    elif is_published(config.model):
        card = dataclasses.replace(card, architecture=stac_model.PUBLISHED_ARCHITECTURE)
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
            geometry=place.geometry,
            legend=legend,
            scenes=tuple(scenes[scene_id] for scene_id in place.zone.scene_ids),
            software=plan.software,
            version=importlib.metadata.version("spex-landcover"),
            created=created,
            lineage=run_facts.lineage(prepared, len(place.zone.scene_ids)),
            composite=config.composite.method,
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
    maps: list[MapPlace],
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
            figures={"Computed in": duration_text(seconds)}
            | _spoken(explanations)
            | ({"Dates joined by": config.composite.method} if config.composite.method != "median" else {}),
        ),
    )
    for place in maps:
        write_text(place.folder / ASSETS["report"].file, page)


def _spoken(explanations: Sequence[RegionExplanation]) -> dict[str, str]:
    """Of the classes that cover something of a sub-region, how many the model says something true of; and of what it
    claims, how much holds."""
    asked = [e for e in explanations if e.words is not None]
    if not asked:
        return {}
    found = Spoken.of([(e.statistics, e.words) for e in asked if e.words is not None])
    return {"Classes in the model's words": f"{found.told:.0%}", "Its claims that hold": f"{found.supported:.0%}"}
