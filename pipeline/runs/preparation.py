"""Everything that is decided before a map is computed, the scenes' values included: what ``plan`` and ``run`` share."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.imagery.scene_examination import examine_scenes
from pipeline.machine.progress import Progress
from pipeline.planning.prepare import Prepared, prepare
from pipeline.records.scene import Scene
from pipeline.settings.run_file import RunConfig
from pipeline.sources.catalog import asset_door

TOLD_FROM = 20
"""So many scenes are examined in a moment; more are told, and counted."""


def prepare_run(config: RunConfig, progress: Progress | None = None) -> Prepared:
    """:func:`pipeline.planning.prepare.prepare`, with every scene held against a few of its pixels.

    Args:
        config: The run file.
        progress: Is told of scenes, where there are many.

    Raises:
        BadInputError: Something that the user gave is wrong, nothing matches it, or no scene can be believed.
        CatalogError: The catalog does not answer.
    """

    def examine(config: RunConfig, scenes: Sequence[Scene]) -> tuple[tuple[Scene, ...], tuple[tuple[str, str], ...]]:
        told = progress is not None and len(scenes) >= TOLD_FROM
        if progress is not None and told:
            progress.start("examining", len(scenes), "scenes")
        found = examine_scenes(
            scenes, asset_door(config.source), progress.advance if progress is not None and told else None
        )
        return found.scenes, found.set_aside

    return prepare(config, examine)
