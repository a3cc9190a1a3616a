"""From a finished run store to everything a user opens: COGs, explanations, pictures, catalog, report.

Order: rasters, numbers and words, the report, then the items that describe them. The catalog's links come last, so a
reader that starts at ``catalog.json`` finds only what is complete.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cog import write_confidence_cog, write_landcover_cog, write_valid_count_cog
from pipeline.config import RunConfig
from pipeline.explain import ModelTexts, RegionExplanation, explain_map
from pipeline.explanation_files import write_explanations
from pipeline.plan import ZonePlan
from pipeline.region import Region
from pipeline.report import Accuracy, ReportContext, map_picture, write_report
from pipeline.scene import Scene
from pipeline.stac import MapProduct, item_folder, item_id, map_item, timestamp
from pipeline.stac_catalog import CatalogFiles, publish
from pipeline.stac_model import ModelCard, model_item, model_link
from pipeline.statistics import MapStatistics, ZoneLayers, map_statistics
from pipeline.store import RunStore
from pipeline.thumbnail import write_thumbnail
from spex_core.legend import Legend


@dataclass(frozen=True)
class Publication:
    """What was written for a run."""

    catalog: CatalogFiles
    report: Path
    landcover: tuple[Path, ...]
    """One per zone, in the order of the plan."""
    statistics: MapStatistics
    explanations: tuple[RegionExplanation, ...]
    problems: tuple[str, ...]
    missing_blocks: int

    @property
    def complete(self) -> bool:
        """Nothing is missing and nothing went wrong."""
        return not self.problems and not self.missing_blocks


def publish_run(
    store: RunStore,
    region: Region,
    legend: Legend,
    config: RunConfig,
    *,
    card: ModelCard,
    created: dt.datetime | None = None,
    skipped_scenes: Sequence[tuple[str, str]] = (),
    model_texts: ModelTexts | None = None,
    accuracy: Callable[[Sequence[Path]], Accuracy] | None = None,
    figures: Mapping[str, str] | None = None,
) -> Publication:
    """Writes all outputs of a run below ``config.output``.

    Args:
        store: The run's store; blocks that its journal does not call finished are missing.
        region: The area and its sub-regions.
        legend: Classes of the map.
        config: The run file.
        card: The model that made the map.
        created: Time that enters the catalog and the page (never a raster); default: now.
        skipped_scenes: Item id and reason, from the search.
        model_texts: Sub-region id → class code → the model's own sentence.
        accuracy: Compares the class maps (one per zone) with a reference, for the report.
        figures: Further key figures of the report.

    Raises:
        CogError: A raster cannot be written.
        OutputError: Another output cannot be written.
        StoreError: The store is damaged.
    """
    created = created or dt.datetime.now(dt.UTC)
    plan, output, collection = store.plan, config.output, config.publish.collection_id
    scenes = {scene.id: scene for scene in plan.scenes}
    state = store.state()
    zones = [_zone_layers(store, zone, region) for zone in plan.zones]
    statistics = map_statistics(config.name, region.subregions, zones, legend)
    explanations = explain_map(statistics, legend, model_texts)

    products: list[MapProduct] = []
    folders: list[Path] = []
    all_problems: list[str] = []
    all_missing = 0
    for zone, layers in zip(plan.zones, zones, strict=True):
        epsg = zone.grid.epsg
        missing = tuple(b.index for b in zone.blocks if (epsg, b.index) not in state.finished)
        problems = _problems(zone, state.finished, state.failed)
        folder = item_folder(output, collection, item_id(config.name, config.start, config.end, epsg))
        product = MapProduct(
            run_name=config.name,
            run_id=plan.run_id,
            start=config.start,
            end=config.end,
            grid=zone.grid,
            geometry=layers.geometry,
            legend=legend,
            scenes=tuple(scenes[i] for i in zone.scene_ids),
            software=plan.software,
            version=plan.software.get("spex-landcover", "unknown"),
            created=created,
            lineage=_lineage(config, card, len(zone.scene_ids)),
            class_pixels=statistics.zone_pixels[epsg],
            observed_share=statistics.overall.observed_share if len(zones) == 1 else None,
            mean_confidence=statistics.overall.mean_confidence if len(zones) == 1 else None,
            missing_blocks=missing,
            problems=problems,
            skipped_scenes=tuple(skipped_scenes),
        )
        _write_zone(store, product, folder, config, explanations, created)
        products.append(product)
        folders.append(folder)
        all_problems += [p for p in problems if p not in all_problems]
        all_missing += len(missing)

    landcover = tuple(folder / "landcover.tif" for folder in folders)
    areas = [(s.id, s.name, s.geometry) for s in region.subregions]
    report = write_report(
        output / "report" / "index.html",
        ReportContext(
            title=f"Land cover: {config.name}",
            run_name=config.name,
            run_id=plan.run_id,
            start=config.start,
            end=config.end,
            created=created,
            legend=legend,
            statistics=statistics,
            explanations=explanations,
            pictures=tuple(
                map_picture(path, zone.grid, legend, areas) for path, zone in zip(landcover, plan.zones, strict=True)
            ),
            scenes=_used(plan.scenes, plan.zones),
            software=plan.software,
            model=card.name,
            items=tuple(f"{collection}/{folder.name}" for folder in folders),
            skipped_scenes=tuple(skipped_scenes),
            problems=tuple(all_problems),
            missing_blocks=all_missing,
            accuracy=accuracy(landcover) if accuracy is not None else None,
            figures=figures or {},
        ),
    )
    link = model_link(card, collection)
    catalog = publish(
        output,
        collection,
        [map_item(p, folder, collection, model_link=link) for p, folder in zip(products, folders, strict=True)],
        legend,
        model=model_item(card, collection),
        resolution_m=config.tiling.resolution_m,
    )
    return Publication(catalog, report, landcover, statistics, explanations, tuple(all_problems), all_missing)


def _zone_layers(store: RunStore, zone: ZonePlan, region: Region) -> ZoneLayers:
    blocks = tuple(block.window for block in zone.blocks)
    return ZoneLayers(zone.grid, blocks, store.zone(zone.grid.epsg), region.zone_geometry(zone.grid.epsg))


def _write_zone(
    store: RunStore,
    product: MapProduct,
    folder: Path,
    config: RunConfig,
    explanations: Sequence[RegionExplanation],
    created: dt.datetime,
) -> None:
    zone = store.zone(product.grid.epsg)
    tags = {"RUN_ID": product.run_id, "SOFTWARE": f"spex-landcover {product.version}"}
    landcover = write_landcover_cog(
        zone,
        folder / "landcover.tif",
        product.legend,
        overview_resampling=config.publish.overview_resampling,
        tags=tags,
    )
    write_confidence_cog(zone, folder / "confidence.tif", tags=tags)
    write_valid_count_cog(zone, folder / "valid_count.tif", tags=tags)
    write_thumbnail(landcover, folder / "thumbnail.png", product.legend)
    epsg = product.grid.epsg
    here = [e for e in explanations if epsg in e.statistics.epsgs or not e.statistics.epsgs]
    header = {
        "run_id": product.run_id,
        "run_name": product.run_name,
        "item": product.item_id,
        "start": product.start.isoformat(),
        "end": product.end.isoformat(),
        "created": timestamp(created),
        "legend": product.legend.name,
    }
    write_explanations(folder, here, title=f"{product.run_name}, {product.start} to {product.end}", header=header)


def _problems(
    zone: ZonePlan, finished: Mapping[tuple[int, int], Any], failed: Mapping[tuple[int, int], Any]
) -> tuple[str, ...]:
    """One line per distinct problem of a zone, in the order of its blocks."""
    lines: list[str] = []
    for block in zone.blocks:
        key = (zone.grid.epsg, block.index)
        if key in finished:
            lines += finished[key].problems
        elif key in failed:
            lines.append(f"block {block.index} of EPSG:{zone.grid.epsg} failed: {failed[key].error}")
    return tuple(dict.fromkeys(lines))


def _used(scenes: Sequence[Scene], zones: Sequence[ZonePlan]) -> tuple[Scene, ...]:
    ids = {i for zone in zones for i in zone.scene_ids}
    return tuple(sorted((s for s in scenes if s.id in ids), key=lambda s: (s.datetime, s.id)))


def _lineage(config: RunConfig, card: ModelCard, scenes: int) -> str:
    return (
        f"{scenes} Sentinel-2 scene(s) from {config.source.provider}, clouds and shadows masked by the scene "
        f"classification, composited ({config.composite.method}); classified by {card.name} in overlapping tiles of "
        f"{config.tiling.tile_px} px that were blended with a smooth window."
    )
