"""One run from end to end: prepare, compute blocks on Ray, publish; resumed where an earlier run stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import logging
import time
from collections.abc import Callable, Iterator

from pipeline.engine.budget import plan_need
from pipeline.engine.cluster import connected
from pipeline.engine.driver import EngineReport
from pipeline.engine.ray_executor import run_blocks
from pipeline.engine.tasks import ZoneContext
from pipeline.errors import StoreError
from pipeline.imagery.window_reader import DOUBTFUL
from pipeline.machine.memory import PeakMemory
from pipeline.machine.preflight import require_local_ray
from pipeline.machine.progress import Progress
from pipeline.machine.wheel_data import leave_out_foreign_data
from pipeline.mapstore.journal import JournalState, RunEnded, RunStarted
from pipeline.mapstore.layers import SEEN
from pipeline.mapstore.output_folders import map_lock, run_lock
from pipeline.mapstore.store import PLAN_FILE, RunStore, run_folder
from pipeline.outputs.output_folder import check_output
from pipeline.outputs.publish import Publication, check_places, publish_run
from pipeline.outputs.rehearsal import rehearse
from pipeline.outputs.report import Accuracy
from pipeline.planning.estimate import mapped_pixels
from pipeline.planning.prepare import Prepared
from pipeline.planning.rates import Rates, keep_rates, run_kind
from pipeline.records.result import RunResult
from pipeline.runs.emptiness import EMPTY_STATUS, is_empty, refuse_empty, unfinished
from pipeline.runs.finished import earlier_result, map_name, of_earlier_layout, write_result
from pipeline.runs.preparation import prepare_run
from pipeline.runs.region_texts import RegionTexts
from pipeline.settings.model import gpu_number, text_questions
from pipeline.settings.run_file import RunConfig
from pipeline.sources.catalog import asset_door
from spex_core.errors import SpexError

logger = logging.getLogger(__name__)

ALL_THERE = "everything is there already: nothing to compute"

Evaluate = Callable[["Prepared", RunStore], Accuracy | None]
"""Compares a finished map with a reference, for the report."""


def map_region(config: RunConfig, progress: Progress, evaluate: Evaluate | None = None) -> RunResult:
    """See :func:`pipeline.run.run`; ``evaluate`` adds an accuracy assessment to the report."""
    begun = time.monotonic()
    foreign = leave_out_foreign_data()
    check_output(config.output, config.publish.collection_id)
    if config.compute.address is None:
        require_local_ray()
    with contextlib.ExitStack() as held, PeakMemory() as peak, progress:
        held.enter_context(map_lock(config.output, map_name(config)))
        if foreign:
            progress.say(f"left out: {' and '.join(foreign)}, data of another PROJ or GDAL")
        with progress.waiting(f"searching scenes for {config.name}, {config.start} to {config.end}"):
            prepared = prepare_run(config, progress)
        check_places(prepared)
        _tell(prepared, progress)
        folder = run_folder(config.output, prepared.plan.run_id)
        held.enter_context(run_lock(config.output, prepared.plan.run_id))
        cleaned = not (folder / PLAN_FILE).exists()  # or it never was: then there is no result either
        if cleaned and evaluate is None and (earlier := earlier_result(prepared, folder)) is not None:
            progress.say(ALL_THERE)
            return earlier
        store = RunStore.create(
            folder,
            prepared.plan,
            prepared.legend,
            unfamiliar=bool(prepared.familiarity[0]),
            seen=text_questions(config.model, 1)[0] > 0,
        )
        if not (to_do := unfinished(prepared, before := store.state())):
            refuse_empty(prepared, before)
        # What is not in the store any more cannot be compared with a reference.
        earlier = None if evaluate and to_do else earlier_result(prepared, folder)
        if earlier is not None:
            progress.say(ALL_THERE)
            if evaluate:
                evaluate(prepared, store)
            return earlier
        if not to_do and of_earlier_layout(folder):
            progress.say(f"{config.output} was laid out by an earlier version: published again, nothing is computed")
        rehearse(prepared, store)
        computing = time.monotonic()
        engine = _compute(prepared, store, progress)
        computed = time.monotonic() - computing
        refuse_empty(prepared, store.state())
        with _interruption_journalled(store, begun):
            accuracy = evaluate(prepared, store) if evaluate else None
            publishing = time.monotonic()
            words = RegionTexts.of(prepared, store, progress)
            publication = publish_run(
                prepared, store, progress, accuracy, seconds=time.monotonic() - begun, words=words
            )
            _keep_rates(prepared, engine, computed, time.monotonic() - publishing)
            peak_mb = max(peak.mb, engine.worker_peak_mb)
            result = _result(prepared, store.state(), engine, publication, time.monotonic() - begun, peak_mb)
            if words is not None and words.problems:
                result = dataclasses.replace(result, exit_code=3, text_problems=tuple(words.problems))
            write_result(prepared, store, result)
        return result


def _keep_rates(prepared: Prepared, engine: EngineReport, computed_s: float, published_s: float) -> None:
    """For the next ``spex plan``. A joined cluster is another one the next time."""
    if prepared.config.compute.address is None and engine.seconds > 0 and not engine.failed:
        rates = Rates(
            start_s=computed_s - engine.seconds,
            pixels_per_s=engine.pixels / engine.seconds,
            publish_pixels_per_s=mapped_pixels(prepared.plan) / max(published_s, 1e-3),
        )
        keep_rates(run_kind(prepared.config, prepared.plan, prepared.fingerprint), rates, engine.pixels)


def _tell(prepared: Prepared, progress: Progress) -> None:
    plan, search = prepared.plan, prepared.search
    tiles = sum(len(block.tiles) for zone in plan.zones for block in zone.blocks)
    blocks = sum(len(zone.blocks) for zone in plan.zones)
    progress.say(f"run {plan.run_id}: {len(plan.scenes)} scenes, {tiles} tiles in {blocks} blocks")
    if reason := prepared.familiarity[1]:
        logger.warning("no unfamiliar.tif: %s", reason)
    for note in prepared.region.notes:
        logger.warning("region: %s", note)
    for note in search.completeness.notes:
        logger.warning("search: %s", note)
    for item, reason in search.skipped:
        logger.warning("%s is not used: %s", item, reason)
    for item, line in prepared.doubts:
        logger.warning("scene %s: %s", item, line)


def _compute(prepared: Prepared, store: RunStore, progress: Progress) -> EngineReport:
    plan, config = prepared.plan, prepared.config
    done = {key for key, record in store.finished_blocks().items() if not record.incomplete}
    finished = frozenset(
        (position, block.index)
        for position, zone in enumerate(plan.zones)
        for block in zone.blocks
        if (zone.grid.epsg, block.index) in done
    )
    if len(finished) == sum(len(zone.blocks) for zone in plan.zones):
        return EngineReport()
    begun = time.monotonic()
    with store.journal_writer() as journal:
        journal.append(RunStarted(_now(), plan.run_id, len(finished)))
        try:
            address = config.compute.address
            need = plan_need(plan, len(prepared.legend), finished)
            with contextlib.ExitStack() as stack:
                with progress.waiting("starting Ray" if address is None else f"joining {address}"):
                    cluster = stack.enter_context(connected(config.compute, need, gpu_number(config.model)))
                progress.say(cluster.description)
                report = run_blocks(
                    plan,
                    config,
                    prepared.legend,
                    zone_contexts(prepared, store),
                    cluster,
                    journal,
                    progress,
                    finished,
                )
            if report.failed and not store.state().finished:  # what an earlier run has mapped is published all the same
                raise SpexError(f"no block could be mapped; the first failure: {report.failed[0].reason}")
            status = "partial" if report.failed or report.incomplete else "complete"
            if is_empty(store.state()):
                status = EMPTY_STATUS
        except BaseException as error:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            with contextlib.suppress(StoreError):  # on a full disk: what ended the run is what is told
                journal.append(RunEnded(_now(), status, round(time.monotonic() - begun, 1)))
            raise
        journal.append(RunEnded(_now(), status, round(time.monotonic() - begun, 1)))
    return report


@contextlib.contextmanager
def _interruption_journalled(store: RunStore, begun: float) -> Iterator[None]:
    """A map whose publication was interrupted is not complete; the run that publishes it takes that back."""

    def end(status: str) -> None:
        with store.journal_writer() as journal:
            journal.append(RunEnded(_now(), status, round(time.monotonic() - begun, 1)))

    try:
        yield
    except KeyboardInterrupt:
        end("interrupted")
        raise
    state = store.state()
    if state.ended is not None and state.ended.status == "interrupted":
        end("partial" if state.failed or any(block.incomplete for block in state.finished.values()) else "complete")


def zone_contexts(prepared: Prepared, store: RunStore) -> tuple[ZoneContext, ...]:
    """What the tasks of each zone need."""
    scenes = {scene.id: scene for scene in prepared.plan.scenes}
    clip = prepared.config.publish.clip
    door = asset_door(prepared.config.source)
    return tuple(
        ZoneContext(
            grid=zone.grid,
            scenes=tuple(scenes[scene_id] for scene_id in zone.scene_ids),
            composite=prepared.config.composite,
            area=prepared.zone_areas[zone.grid.epsg] if clip else None,
            legend=prepared.legend,
            run_folder=store.folder.resolve(),
            door=door,
            software=prepared.plan.software,
            familiarity=prepared.familiarity[0],
            seen=store.zone(zone.grid.epsg).has(SEEN),
        )
        for zone in prepared.plan.zones
    )


def _result(
    prepared: Prepared,
    state: JournalState,
    engine: EngineReport,
    publication: Publication,
    seconds: float,
    peak_mb: float,
) -> RunResult:
    plan, skipped = prepared.plan, prepared.search.skipped
    incomplete = sum(record.incomplete for record in state.finished.values())
    doubts = (*prepared.doubts, *_doubts_of_reading(state))
    return RunResult(
        run_id=plan.run_id,
        exit_code=3 if state.failed or incomplete or skipped or doubts else 0,
        outputs=publication.outputs,
        seconds=seconds,
        tiles=sum(len(block.tiles) for zone in plan.zones for block in zone.blocks),
        blocks=sum(len(zone.blocks) for zone in plan.zones),
        computed_blocks=engine.finished,
        missing_blocks=len(state.failed),
        incomplete_blocks=incomplete,
        skipped_scenes=skipped,
        doubtful_scenes=doubts,
        peak_memory_mb=peak_mb,
    )


def _doubts_of_reading(state: JournalState) -> tuple[tuple[str, str], ...]:
    """(scene id, line) of what only all bands of a scene show: a plan's examination reads a few of them."""
    found = dict.fromkeys(problem for _, record in sorted(state.finished.items()) for problem in record.problems)
    return tuple((scene, line) for scene, mark, line in (text.partition(DOUBTFUL) for text in found) if mark)


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
