"""From a run file to everything that is decided before a pixel is read."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from shapely.geometry.base import BaseGeometry

from pipeline.planning.blocks import build_plan
from pipeline.planning.zones import zone_areas
from pipeline.records.plan import MapPlan
from pipeline.records.region import Region, read_region
from pipeline.settings.model import check_device, check_model, classifier_fingerprint
from pipeline.settings.run_file import RunConfig
from pipeline.sources.catalog import SceneSearch, find_scenes
from spex_core.legend import Legend


@dataclass(frozen=True)
class Prepared:
    """Everything that is decided before a pixel is read."""

    config: RunConfig
    region: Region
    legend: Legend
    search: SceneSearch
    fingerprint: str
    """Of the classifier."""
    plan: MapPlan

    @functools.cached_property
    def zone_areas(self) -> dict[int, BaseGeometry]:
        """EPSG code → the part of the region that its map holds, lon/lat."""
        return zone_areas(self.region, self.plan.scenes)


def prepare(config: RunConfig) -> Prepared:
    """Reads region, legend and checkpoint, searches the catalog and plans.

    Raises:
        BadInputError: Something that the user gave is wrong, or nothing matches it.
        CatalogError: The catalog does not answer.
    """
    legend = Legend.from_yaml(config.legend)
    check_device(config.model, config.compute)
    check_model(config.model, config.source.bands)
    fingerprint = classifier_fingerprint(config.model, legend)
    settings = config.regions
    region = read_region(
        config.region,
        id_field=settings.id_field,
        name_field=settings.name_field,
        grid_km=settings.grid_km,
        max_regions=settings.max_regions,
        layer=settings.layer,
        where=settings.where,
    )
    search = find_scenes(config.source, region, config.start, config.end)
    plan = build_plan(config, region, search.scenes, model_fingerprint=fingerprint, legend=legend)
    return Prepared(config, region, legend, search, fingerprint, plan)
