"""The public face of the engine: :func:`run` makes a map, :func:`plan` says what making it would take.

This module stays light (the package imports it at once); the work is in :mod:`pipeline.runs.map_region`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.machine.progress import Progress
    from pipeline.records.plan import MapPlan
    from pipeline.records.result import RunResult
    from pipeline.settings.run_file import RunConfig


def run(config: RunConfig, progress: Progress | None = None) -> RunResult:
    """Makes the map that ``config`` describes, or finishes one that was interrupted.

    Blocks that an earlier run of the same plan finished are not computed again; if everything is there, nothing is.

    Args:
        config: The run file.
        progress: Where progress is told; default: log lines of the logger ``pipeline``.

    Raises:
        BadInputError: Something that the user gave is wrong, or nothing matches it.
        SpexError: The run failed; finished blocks are kept.
        KeyboardInterrupt: Interrupted; finished blocks are kept.
    """
    from pipeline.machine.progress import LogProgress
    from pipeline.runs.map_region import map_region

    return map_region(config, progress or LogProgress())


def plan(config: RunConfig) -> MapPlan:
    """Searches the catalog and decides everything a run will do; reads a few pixels of every scene.

    Raises:
        BadInputError: Something that the user gave is wrong, or nothing matches it.
        CatalogError: The catalog does not answer.
    """
    from pipeline.machine.wheel_data import leave_out_foreign_data
    from pipeline.outputs.output_folder import check_output
    from pipeline.runs.preparation import prepare_run

    leave_out_foreign_data()
    check_output(config.output, config.publish.collection_id)
    return prepare_run(config).plan
