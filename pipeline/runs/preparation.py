"""Everything that is decided before a map is computed, the scenes' values included: what ``plan`` and ``run`` share."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.imagery.scene_examination import examine_scenes
from pipeline.planning.prepare import Prepared, prepare
from pipeline.records.scene import Scene
from pipeline.settings.run_file import RunConfig
from pipeline.sources.catalog import asset_door


def prepare_run(config: RunConfig) -> Prepared:
    """:func:`pipeline.planning.prepare.prepare`, with every scene held against a few of its pixels.

    Raises:
        BadInputError: Something that the user gave is wrong, nothing matches it, or no scene can be believed.
        CatalogError: The catalog does not answer.
    """
    return prepare(config, _examine)


def _examine(config: RunConfig, scenes: Sequence[Scene]) -> tuple[tuple[Scene, ...], tuple[tuple[str, str], ...]]:
    found = examine_scenes(scenes, asset_door(config.source))
    return found.scenes, found.set_aside
