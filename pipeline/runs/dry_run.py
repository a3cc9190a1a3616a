"""What a run would do, told before it does anything: ``spex plan`` and ``spex run --dry-run``."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.machine.lock import is_held
from pipeline.machine.progress import Progress
from pipeline.mapstore.output_folders import map_lock_file, run_lock_file
from pipeline.mapstore.store import RunStore, run_folder
from pipeline.outputs.output_folder import check_output
from pipeline.planning.estimate import PlanSummary, summarise
from pipeline.planning.prepare import Prepared
from pipeline.planning.rates import known_rates, run_kind
from pipeline.runs.finished import earlier_result, map_name
from pipeline.runs.preparation import prepare_run
from pipeline.settings.run_file import RunConfig


@dataclass(frozen=True)
class LookAhead:
    """A run that was not started."""

    prepared: Prepared
    summary: PlanSummary
    blocks_done: int
    """Finished by an earlier run of the same plan, nothing missing in them."""
    published: bool
    """Its map is there already, and as it would be made: the run would do nothing."""
    busy: bool
    """Another process is writing the output folder at the moment."""

    @property
    def blocks_to_compute(self) -> int:
        """Blocks that the run would compute."""
        return 0 if self.published else self.summary.blocks - self.blocks_done


def summarised(config: RunConfig, progress: Progress) -> tuple[Prepared, PlanSummary]:
    """Searches and plans, and counts what the run would take.

    Raises:
        BadInputError: Something that the user gave is wrong, nothing matches it, or the output folder cannot be used.
        CatalogError: The catalog does not answer.
    """
    check_output(config.output, config.publish.collection_id)
    with progress.waiting(f"searching scenes for {config.name}, {config.start} to {config.end}"):
        prepared = prepare_run(config, progress)
    kind = run_kind(config, prepared.plan, prepared.fingerprint)
    return prepared, summarise(
        prepared.plan, prepared.region, known_rates(kind) if config.compute.address is None else None
    )


def look_ahead(config: RunConfig, progress: Progress) -> LookAhead:
    """The same, held against what is in the output folder. Writes nothing there, and waits for nobody.

    Raises:
        BadInputError: As :func:`summarised`.
        CatalogError: The catalog does not answer.
        StoreError: What an earlier run of this plan left is damaged.
    """
    prepared, summary = summarised(config, progress)
    folder = run_folder(config.output, prepared.plan.run_id)
    done = 0
    if (folder / "plan.json").is_file():
        done = sum(not record.incomplete for record in RunStore.open(folder).finished_blocks().values())
    published = earlier_result(prepared, folder) is not None
    locks = (map_lock_file(config.output, map_name(config)), run_lock_file(folder))
    busy = any(lock.is_file() and is_held(lock) for lock in locks)
    return LookAhead(prepared, summary, done, published, busy)
