"""From a finished store to what people open: COGs, statistics, explanations, thumbnail, STAC catalog, report."""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import cog, stac, stac_catalog, stac_model
from pipeline.classify import INDEX_RULES
from pipeline.explain import RegionExplanation, explain_map
from pipeline.explanation_files import write_explanations
from pipeline.journal import JournalState
from pipeline.plan import Window, ZoneGrid, ZonePlan
from pipeline.progress import Progress, duration_text
from pipeline.report import Accuracy, ReportContext, map_picture, write_report
from pipeline.statistics import MapStatistics, ZoneLayers, map_statistics
from pipeline.store import RunStore
from pipeline.thumbnail import write_thumbnail

if TYPE_CHECKING:
    from pipeline.mapping import Prepared

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
    prepared: Prepared, store: RunStore, progress: Progress, accuracy: Accuracy | None, *, seconds: float
) -> Publication:
    """Writes every file of a run below its output folder, each atomically; the root catalog comes last.

    Raises:
        OutputError: The folder cannot be written.
        StoreError: The store is damaged.
    """
    config, plan, legend = prepared.config, prepared.plan, prepared.legend
    maps = [_zone_map(prepared, zone) for zone in plan.zones]
    progress.start("publishing", 3 * len(maps) + 3, "files")
    for place in maps:
        _write_rasters(place, prepared, store, progress)
    statistics = map_statistics(
        config.name, prepared.region.subregions, [_zone_layers(m.zone, prepared, store) for m in maps], legend
    )
    explanations = explain_map(statistics, legend)
    progress.advance()
    for place in maps:
        _write_explanations(place, prepared, explanations)
        write_thumbnail(place.folder / "landcover.tif", place.folder / "thumbnail.png", legend, with_legend=True)
    state = store.state()
    files = _write_catalog(maps, prepared, statistics, state)
    progress.advance()
    report = _write_report(maps, prepared, statistics, explanations, state, accuracy, seconds)
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


def _zone_map(prepared: Prepared, zone: ZonePlan) -> _ZoneMap:
    config = prepared.config
    item = stac.item_id(config.name, config.start, config.end, zone.grid.epsg)
    return _ZoneMap(zone, item, stac.item_folder(config.output, config.publish.collection_id, item))


def _write_rasters(place: _ZoneMap, prepared: Prepared, store: RunStore, progress: Progress) -> None:
    config, zone = prepared.config, store.zone(place.zone.grid.epsg)
    # Neither a time nor a machine: the same plan gives the same bytes.
    tags = {
        "SPEX_RUN_ID": prepared.plan.run_id,
        "SPEX_RUN_NAME": config.name,
        "SPEX_PERIOD": f"{config.start}/{config.end}",
        "SPEX_LEGEND": prepared.legend.name,
        "SPEX_MODEL": _model_name(prepared),
    }
    cog.write_landcover_cog(
        zone,
        place.folder / "landcover.tif",
        prepared.legend,
        overview_resampling=config.publish.overview_resampling,
        tags=tags,
    )
    progress.advance()
    cog.write_confidence_cog(zone, place.folder / "confidence.tif", tags=tags)
    progress.advance()
    cog.write_valid_count_cog(zone, place.folder / "valid_count.tif", tags=tags)
    progress.advance()


def _zone_layers(zone: ZonePlan, prepared: Prepared, store: RunStore) -> ZoneLayers:
    epsg = zone.grid.epsg
    windows = _lattice(zone.grid, prepared.config.tiling.block_px)
    return ZoneLayers(zone.grid, windows, store.zone(epsg), prepared.region.zone_geometry(epsg))


def _lattice(grid: ZoneGrid, size: int) -> tuple[Window, ...]:
    return tuple(
        Window(row, col, min(size, grid.height - row), min(size, grid.width - col))
        for row in range(0, grid.height, size)
        for col in range(0, grid.width, size)
    )


def _write_explanations(place: _ZoneMap, prepared: Prepared, explanations: tuple[RegionExplanation, ...]) -> None:
    config, plan = prepared.config, prepared.plan
    epsg = place.zone.grid.epsg
    here = [e for e in explanations if epsg in e.statistics.epsgs]
    header = {
        "run_id": plan.run_id,
        "name": config.name,
        "start": config.start.isoformat(),
        "end": config.end.isoformat(),
        "legend": prepared.legend.name,
        "model": _model_name(prepared),
        "crs": f"EPSG:{epsg}",
    }
    write_explanations(place.folder, here, title=f"{config.name}, {config.start} to {config.end}", header=header)


def _write_catalog(
    maps: list[_ZoneMap], prepared: Prepared, statistics: MapStatistics, state: JournalState
) -> stac_catalog.CatalogFiles:
    config, plan, legend = prepared.config, prepared.plan, prepared.legend
    collection, created = config.publish.collection_id, dt.datetime.now(dt.UTC)
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
        product = stac.MapProduct(
            run_name=config.name,
            run_id=plan.run_id,
            start=config.start,
            end=config.end,
            grid=place.zone.grid,
            geometry=prepared.region.zone_geometry(epsg),
            legend=legend,
            scenes=tuple(scenes[scene_id] for scene_id in place.zone.scene_ids),
            software=plan.software,
            version=importlib.metadata.version("spex-landcover"),
            created=created,
            lineage=_lineage(prepared),
            class_pixels=statistics.zone_pixels.get(epsg, {}),
            observed_share=statistics.overall.observed_share,
            mean_confidence=statistics.overall.mean_confidence,
            missing_blocks=tuple(index for zone, index in state.failed if zone == epsg),
            problems=_problems(state, epsg),
            skipped_scenes=prepared.search.skipped,
        )
        link = stac_model.model_link(card, collection)
        items.append(stac.map_item(product, place.folder, collection, model_link=link))
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
) -> Path:
    config, plan = prepared.config, prepared.plan
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
        config.output / "report" / "index.html",
        ReportContext(
            title=f"Land cover: {config.name}",
            run_name=config.name,
            run_id=plan.run_id,
            start=config.start,
            end=config.end,
            created=dt.datetime.now(dt.UTC),
            legend=prepared.legend,
            statistics=statistics,
            explanations=explanations,
            pictures=pictures,
            scenes=plan.scenes,
            software=plan.software,
            model=_model_name(prepared),
            items=tuple(place.folder.relative_to(config.output).as_posix() for place in maps),
            skipped_scenes=prepared.search.skipped,
            problems=tuple(p for place in maps for p in _problems(state, place.zone.grid.epsg)),
            missing_blocks=len(state.failed),
            accuracy=accuracy,
            figures={"Computed in": duration_text(seconds)},
        ),
    )


def _model_name(prepared: Prepared) -> str:
    """The checkpoint's name; of a folder only the last part, because maps travel and paths do not."""
    return Path(prepared.config.model.checkpoint).name


def _lineage(prepared: Prepared) -> str:
    config, scenes = prepared.config, prepared.plan.scenes
    how = "median" if config.composite.method == "median" else "least cloudy first"
    return (
        f"{len(scenes)} Sentinel-2 L2A scenes of {config.start} to {config.end} were masked by their scene "
        f"classification and composited ({how}); {_model_name(prepared)} classified tiles of "
        f"{config.tiling.tile_px} px that overlap by {config.tiling.overlap_px} px, merged by weights that sum to one."
    )


def _problems(state: JournalState, epsg: int) -> tuple[str, ...]:
    """Distinct messages of a zone, in the order of its blocks."""
    found: dict[str, None] = {}
    for (zone, _), record in sorted(state.finished.items()):
        if zone == epsg:
            found.update(dict.fromkeys(record.problems))
    for (zone, index), failure in sorted(state.failed.items()):
        if zone == epsg:
            found[f"block {index}: {failure.error}"] = None
    return tuple(found)[:MAX_PROBLEMS]
