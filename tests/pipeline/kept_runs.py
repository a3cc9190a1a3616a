"""Maps made in this process, block by block and without Ray, whose stores are kept. Test support, not a test."""

from __future__ import annotations

from pathlib import Path

from pipeline.engine.tasks import finish_block, read_block
from pipeline.machine.progress import LogProgress
from pipeline.mapstore.journal import BlockFinished
from pipeline.mapstore.store import RunStore, run_folder
from pipeline.outputs.publish import publish_run
from pipeline.predict.classifier import BlockClassifier, ClassifierSettings
from pipeline.predict.stitch import target_blocks
from pipeline.runs.map_region import zone_contexts
from pipeline.runs.preparation import prepare_run
from pipeline.settings.run_file import RunConfig


def kept_run(config: RunConfig) -> Path:
    """Maps a region and publishes it.

    Returns:
        The output folder.
    """
    prepared = prepare_run(config)
    plan, legend = prepared.plan, prepared.legend
    store = RunStore.create(run_folder(config.output, plan.run_id), plan, legend)
    settings = ClassifierSettings(config.model, legend, config.tiling, plan.zones, 1, 0.0, plan.software)
    actor = BlockClassifier(settings)
    actor.load()
    for number, (zone, context) in enumerate(zip(plan.zones, zone_contexts(prepared, store), strict=True)):
        layers, pieces = {}, {}
        for block in zone.blocks:
            reflectance, layers[block.index], _ = read_block(context, block)
            targets = tuple(index for index, _ in target_blocks(block, zone, config.tiling))
            *found, _ = actor.classify(number, block, targets, reflectance)
            pieces |= {(block.index, target): piece for target, piece in zip(targets, found, strict=True)}
        with store.journal_writer() as journal:
            for block in zone.blocks:
                found = [pieces.get((source, block.index)) for source in block.needs]
                report = finish_block(context, block, layers[block.index], *found)
                journal.append(
                    BlockFinished(zone.grid.epsg, block.index, 0.1, report.valid_share, report.sha256, (), False)
                )
    publish_run(prepared, store, LogProgress(), None, seconds=1.0)
    return config.output
