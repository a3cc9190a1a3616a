"""From a finished store to what people open: COGs, statistics, explanations, thumbnail, STAC catalog, report."""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib.metadata
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.explain.files import write_explanations
from pipeline.explain.sentences import RegionExplanation, explain_map
from pipeline.explain.statistics import MapStatistics, ZoneLayers, map_statistics
from pipeline.machine.own_files import own_folder
from pipeline.machine.processors import cpu_count
from pipeline.machine.progress import Progress, duration_text
from pipeline.mapstore.journal import JournalState
from pipeline.mapstore.store import RunStore
from pipeline.outputs import cog, stac_catalog, stac_item, stac_model
from pipeline.outputs.cog_writer import small_cache
from pipeline.outputs.output_folder import REPORT_FILE, REPORT_FOLDER, check_items, check_output
from pipeline.outputs.report import Accuracy, ReportContext, map_picture, write_report
from pipeline.outputs.thumbnail import write_thumbnail
from pipeline.records.plan import ZonePlan
from pipeline.records.scene import Scene
from pipeline.settings.model import INDEX_RULES

if TYPE_CHECKING:
    from pipeline.planning.prepare import Prepared

MAX_PROBLEMS = 50
"""Problem messages that an item and the report repeat; the journal has them all."""


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

    The report comes before the items, which list it as an asset only if it is there; the root catalog comes last, so a
    reader that starts there finds only what is complete.

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
    progress.start("publishing", 3 * len(maps) + 3, "files")
    with small_cache():
        statistics = _write_rasters_and_measure(maps, prepared, store, progress)
    explanations = explain_map(statistics, legend)
    progress.advance()
    for place in maps:
        _write_explanations(place, prepared, explanations)
        write_thumbnail(place.folder / "landcover.tif", place.folder / "thumbnail.png", legend, with_legend=True)
    state = store.state()
    report = _write_report(maps, prepared, statistics, explanations, state, accuracy, seconds, created)
    progress.advance()
    files = _write_catalog(maps, prepared, statistics, state, created)
    for gone in files.removed:
        progress.say(f"removed {gone}: an earlier run of this name and period made it, the region no longer reaches it")
    progress.advance()
    outputs: dict[str, tuple[Path, ...]] = {
        "catalog": (files.catalog,),
        "collection": (files.collection,),
        "items_parquet": (files.parquet,),
        "items": files.items,
        "report": (report,),
    }
    for kind, name in (
        ("landcover", "landcover.tif"),
        ("confidence", "confidence.tif"),
        ("valid_count", "valid_count.tif"),
        ("explanations", "explanations.json"),
        ("explanations_text", "explanations.md"),
        ("thumbnail", "thumbnail.png"),
    ):
        outputs[kind] = tuple(place.folder / name for place in maps)
    return Publication(outputs, statistics)


def check_places(prepared: Prepared) -> None:
    """Asks whether everything that :func:`publish_run` writes can take its place; writes nothing.

    Raises:
        OutputError: Something is in the way; the message says what to change.
    """
    config = prepared.config
    check_output(config.output, config.publish.collection_id)
    items = [_zone_map(prepared, zone).item for zone in prepared.plan.zones]
    side_files = (f"{name}.aux.xml" for name in stac_item.ITEM_FILES if name.endswith(".tif"))
    check_items(config.output, config.publish.collection_id, items, (*stac_item.ITEM_FILES, *side_files))


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


def _raster_writers(place: _ZoneMap, prepared: Prepared, store: RunStore) -> tuple[Callable[[], Path], ...]:
    """What writes the three files of a zone."""
    config, zone = prepared.config, store.zone(place.zone.grid.epsg)
    # Neither a time nor a machine: the same plan gives the same bytes.
    tags = {
        "SPEX_RUN_ID": prepared.plan.run_id,
        "SPEX_RUN_NAME": config.name,
        "SPEX_PERIOD": f"{config.start}/{config.end}",
        "SPEX_LEGEND": prepared.legend.name,
        "SPEX_MODEL": _model_name(prepared),
    }
    resampling = config.publish.overview_resampling
    return (
        lambda: cog.write_landcover_cog(
            zone, place.folder / "landcover.tif", prepared.legend, overview_resampling=resampling, tags=tags
        ),
        lambda: cog.write_confidence_cog(zone, place.folder / "confidence.tif", tags=tags),
        lambda: cog.write_valid_count_cog(zone, place.folder / "valid_count.tif", tags=tags),
    )


def _zone_layers(zone: ZonePlan, prepared: Prepared, store: RunStore) -> ZoneLayers:
    epsg = zone.grid.epsg
    windows = tuple(block.window for block in zone.blocks)
    return ZoneLayers(zone.grid, windows, store.zone(epsg), prepared.zone_areas[epsg])


def _write_explanations(place: _ZoneMap, prepared: Prepared, explanations: tuple[RegionExplanation, ...]) -> None:
    config, plan = prepared.config, prepared.plan
    epsg = place.zone.grid.epsg
    # A sub-region too small for a pixel belongs to no zone: it is told beside every map rather than left out.
    here = [e for e in explanations if epsg in e.statistics.epsgs or not e.statistics.epsgs]
    header = {
        "run_id": plan.run_id,
        "name": config.name,
        "item": place.item,
        "start": config.start.isoformat(),
        "end": config.end.isoformat(),
        "legend": prepared.legend.name,
        "model": _model_name(prepared),
        "crs": f"EPSG:{epsg}",
    }
    write_explanations(place.folder, here, title=f"{config.name}, {config.start} to {config.end}", header=header)


def _write_catalog(
    maps: list[_ZoneMap], prepared: Prepared, statistics: MapStatistics, state: JournalState, created: dt.datetime
) -> stac_catalog.CatalogFiles:
    config, plan, legend = prepared.config, prepared.plan, prepared.legend
    collection = config.publish.collection_id
    overall = statistics.overall if len(maps) == 1 else None  # of all zones together: no figure of one of several
    card = stac_model.ModelCard(
        name=_model_name(prepared),
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
            lineage=_lineage(prepared, len(place.zone.scene_ids)),
            composite=config.composite.method,
            class_pixels=statistics.zone_pixels.get(epsg, {}),
            observed_share=overall.observed_share if overall else None,
            mean_confidence=overall.mean_confidence if overall else None,
            missing_blocks=_missing(state, place.zone),
            problems=(*_doubts(scenes, place.zone), *_problems(state, epsg))[:MAX_PROBLEMS],
            skipped_scenes=prepared.search.skipped,
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
    )


def _write_report(
    maps: list[_ZoneMap],
    prepared: Prepared,
    statistics: MapStatistics,
    explanations: tuple[RegionExplanation, ...],
    state: JournalState,
    accuracy: Accuracy | None,
    seconds: float,
    created: dt.datetime,
) -> Path:
    config, plan = prepared.config, prepared.plan
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
    return write_report(
        config.output / REPORT_FOLDER / REPORT_FILE,
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
            model=_model_name(prepared),
            items=tuple(place.folder.relative_to(config.output).as_posix() for place in maps),
            skipped_scenes=prepared.search.skipped,
            problems=tuple(
                dict.fromkeys(
                    problem
                    for place in maps
                    for problem in (
                        *_doubts({scene.id: scene for scene in plan.scenes}, place.zone),
                        *_problems(state, place.zone.grid.epsg),
                    )
                )
            ),
            missing_blocks=sum(len(_missing(state, place.zone)) for place in maps),
            accuracy=accuracy,
            figures={"Computed in": duration_text(seconds), "Dates joined by": config.composite.method},
        ),
    )


def _model_name(prepared: Prepared) -> str:
    """The checkpoint's name; of a folder only the last part, because maps travel and paths do not."""
    return Path(prepared.config.model.checkpoint).name


def _lineage(prepared: Prepared, scenes: int) -> str:
    config = prepared.config
    fused = config.composite.method == "fuse"
    how = "least cloudy first" if config.composite.method == "least-cloudy-first" else "median"
    composited = "read date by date" if fused else f"composited ({how})"
    masks = {
        "scl": "scene classification",
        "model": "a cloud network",
        "both": "scene classification and a cloud network",
    }
    return (
        f"{scenes} Sentinel-2 L2A scene{'' if scenes == 1 else 's'} of {config.start} to {config.end}, masked by "
        f"{masks[config.composite.cloud_mask]} and {composited}; {_model_name(prepared)} classified tiles of "
        f"{config.tiling.tile_px} px that overlap by {config.tiling.overlap_px} px"
        + (", each date by itself, its log scores averaged over the dates" if fused else "")
        + ", merged by weights that sum to one."
    )


def _missing(state: JournalState, zone: ZonePlan) -> tuple[int, ...]:
    """Blocks that the journal does not call finished, ascending."""
    return tuple(block.index for block in zone.blocks if (zone.grid.epsg, block.index) not in state.finished)


def _doubts(scenes: Mapping[str, Scene], zone: ZonePlan) -> tuple[str, ...]:
    """Scenes of a zone whose radiometry was corrected, or stays doubtful."""
    return tuple(f"{i}: {scenes[i].doubt}" for i in zone.scene_ids if scenes[i].doubt)


def _problems(state: JournalState, epsg: int) -> tuple[str, ...]:
    """Distinct messages of a zone, in the order of its blocks."""
    found: dict[str, None] = {}
    for (zone, _), record in sorted(state.finished.items()):
        if zone == epsg:
            found.update(dict.fromkeys(record.problems))
    for (zone, index), failure in sorted(state.failed.items()):
        if zone == epsg:
            found[f"block {index} of EPSG:{epsg}: {failure.error}"] = None
    return tuple(found)[:MAX_PROBLEMS]
