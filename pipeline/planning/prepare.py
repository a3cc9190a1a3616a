"""From a run file to everything that is decided before a map's pixels are read."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shapely.geometry.base import BaseGeometry

from pipeline.errors import NoScenesError
from pipeline.machine.addresses import without_secrets
from pipeline.planning.blocks import build_plan
from pipeline.planning.zones import zone_areas
from pipeline.records.plan import MapPlan
from pipeline.records.region import Region, read_region
from pipeline.records.scene import Scene
from pipeline.settings.cloud_model import check_cloud_mask
from pipeline.settings.model import (
    check_device,
    check_legend,
    check_model,
    classifier_fingerprint,
    familiarity_of,
    with_own_legend,
)
from pipeline.settings.published import check_published
from pipeline.settings.run_file import RunConfig
from pipeline.sources.catalog import SceneSearch, find_scenes
from spex_core.familiarity import Familiarity
from spex_core.legend import Legend

Examine = Callable[[RunConfig, Sequence[Scene]], tuple[tuple[Scene, ...], tuple[tuple[str, str], ...]]]
"""Holds scenes against their pixels: those that are used, and (id, reason) of those that are set aside."""


@dataclass(frozen=True)
class Prepared:
    """Everything that is decided before a map's pixels are read."""

    config: RunConfig
    region: Region
    legend: Legend
    search: SceneSearch
    fingerprint: str
    """Of the classifier."""
    plan: MapPlan

    @property
    def doubts(self) -> tuple[tuple[str, str], ...]:
        """(scene id, line) of scenes whose radiometry was corrected or stays doubtful."""
        return tuple((scene.id, scene.doubt) for scene in self.plan.scenes if scene.doubt)

    @functools.cached_property
    def familiarity(self) -> tuple[Familiarity | None, str]:
        """What the model was trained on, where the map is to say how unlike it is, and why that is not known."""
        return familiarity_of(self.config)

    @functools.cached_property
    def zone_areas(self) -> dict[int, BaseGeometry]:
        """EPSG code → the part of the region that its map holds, lon/lat."""
        return zone_areas(self.region, self.plan.scenes)


def prepare(config: RunConfig, examine: Examine | None = None) -> Prepared:
    """Reads region, legend and checkpoint, searches the catalog, has its scenes examined, and plans.

    Args:
        config: The run file.
        examine: Scenes that it sets aside are not planned; None: metadata are believed.

    Raises:
        BadInputError: Something that the user gave is wrong, or nothing matches it.
        CatalogError: The catalog does not answer.
    """
    config = with_own_legend(config)
    legend = Legend.from_yaml(config.legend)
    check_device(config.model, config.compute)
    check_model(config.model, config.source.bands)
    check_published(config)
    check_legend(config.model, legend)
    check_cloud_mask(config.composite, config.source.bands)
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
    if examine is not None:
        search = _examined(search, *examine(config, search.scenes))
    told = tuple((scene, without_secrets(reason)) for scene, reason in search.skipped)
    search = dataclasses.replace(search, skipped=told)
    plan = build_plan(config, region, search.scenes, model_fingerprint=fingerprint, legend=legend)
    return Prepared(config, region, legend, search, fingerprint, plan)


def _examined(search: SceneSearch, used: tuple[Scene, ...], set_aside: tuple[tuple[str, str], ...]) -> SceneSearch:
    if not used:
        raise NoScenesError(
            f"none of the {len(set_aside)} scenes that were found can be used; "
            + "; ".join(f"{scene}: {reason}" for scene, reason in set_aside[:3])
            + "; give scale, offset and nodata of the files in the items (STAC raster extension), or another catalog"
        )
    return dataclasses.replace(search, scenes=used, skipped=tuple(sorted((*search.skipped, *set_aside))))
