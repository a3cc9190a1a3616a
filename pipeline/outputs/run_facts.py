"""What a finished run says of itself in items, reports and provenance: model, lineage, gaps, problems and doubts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.mapstore.journal import JournalState
from pipeline.outputs.report import Accuracy
from pipeline.records.plan import ZonePlan
from pipeline.records.scene import Scene
from pipeline.settings.published import is_published

if TYPE_CHECKING:
    from pipeline.planning.prepare import Prepared

MAX_PROBLEMS = 50
"""Problem messages that an item and the report repeat; the journal has them all."""


def model_name(prepared: Prepared) -> str:
    """The checkpoint's name; of a folder only the last part, because maps travel and paths do not."""
    return Path(prepared.config.model.checkpoint).name


def lineage(prepared: Prepared, scenes: int) -> str:
    """One sentence: what was done to how many scenes."""
    config = prepared.config
    fused = config.composite.method == "fuse"
    how = "least cloudy first" if config.composite.method == "least-cloudy-first" else "median"
    composited = "read date by date" if fused else f"composited ({how})"
    masks = {
        "scl": "scene classification",
        "model": "a cloud network",
        "both": "scene classification and a cloud network",
    }
    return (
        f"{scenes} Sentinel-2 L2A scene{'' if scenes == 1 else 's'} of {config.start} to {config.end}, masked by "
        f"{masks[config.composite.cloud_mask]} and {composited}; {model_name(prepared)} classified "
        f"{'true-colour ' if is_published(config.model) else ''}tiles of {config.tiling.tile_px} px that overlap by "
        f"{config.tiling.overlap_px} px"
        + (", each date by itself, its log scores averaged over the dates" if fused else "")
        + ", merged by weights that sum to one."
    )


def missing_blocks(state: JournalState, zone: ZonePlan) -> tuple[int, ...]:
    """Blocks that the journal does not call finished, ascending."""
    return tuple(block.index for block in zone.blocks if (zone.grid.epsg, block.index) not in state.finished)


def notes(scenes: Mapping[str, Scene], state: JournalState, zone: ZonePlan) -> tuple[str, ...]:
    """Doubts about a zone's scenes, then its distinct problems."""
    return (*_doubts(scenes, zone), *_problems(state, zone.grid.epsg))


def accuracy_fields(accuracy: Accuracy | None) -> dict[str, Any]:
    """An accuracy as an item has it; empty where nothing was measured."""
    if accuracy is None:
        return {}
    found: dict[str, Any] = {"reference": accuracy.reference, "overall": round(accuracy.overall, 6)}
    return {**found, "miou": round(accuracy.miou, 6)}


def _doubts(scenes: Mapping[str, Scene], zone: ZonePlan) -> tuple[str, ...]:
    """Scenes of a zone whose radiometry was corrected, or stays doubtful."""
    return tuple(f"{i}: {scenes[i].doubt}" for i in zone.scene_ids if scenes[i].doubt)


def _problems(state: JournalState, epsg: int) -> tuple[str, ...]:
    """Distinct messages of a zone, in the order of its blocks."""
    found: dict[str, None] = {}
    for (zone, _), record in sorted(state.finished.items()):
        if zone == epsg:
            found.update(dict.fromkeys(record.problems))
    for (zone, index), failure in sorted(state.failed.items()):
        if zone == epsg:
            found[f"block {index} of EPSG:{epsg}: {failure.error}"] = None
    return tuple(found)[:MAX_PROBLEMS]
