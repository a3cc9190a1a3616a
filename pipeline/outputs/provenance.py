"""``plan.json`` and ``provenance.json`` beside a map: what was decided and what it was made of, fit to be given away.

Neither has a folder of the machine that made the map, an address of its cluster, a signature or a time: the same run
writes the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.machine.addresses import public_address, public_document
from pipeline.outputs.assets import ASSETS
from pipeline.outputs.stac_item import multihash
from pipeline.records.plan import MapPlan, ZonePlan
from pipeline.records.scene import Scene

SCHEMA = 1
_OF_THIS_MACHINE = ("output", "compute")
"""Sections of a run file that say where and on what it ran, and nothing about the map."""
_PATHS = frozenset({"region", "legend", "url", "checkpoint", "cloud_checkpoint", "allowed_roots"})


def plan_document(plan: MapPlan, zone: ZonePlan) -> dict[str, Any]:
    """The plan of one zone for readers: settings, grid, scenes; blocks, which follow from these, are counted."""
    config = {key: _without_folders(value, key) for key, value in plan.config.items() if key not in _OF_THIS_MACHINE}
    scenes = {scene.id: scene for scene in plan.scenes}
    return {
        "schema": SCHEMA,
        "run_id": plan.run_id,
        "config": public_document(config),
        "software": dict(plan.software),
        "grid": dict(vars(zone.grid)),
        "blocks": len(zone.blocks),
        "tiles": sum(len(block.tiles) for block in zone.blocks),
        "scenes": [_scene(scenes[scene_id]) for scene_id in zone.scene_ids],
    }


def provenance_document(
    plan: MapPlan,
    zone: ZonePlan,
    folder: Path,
    *,
    item: str,
    model: Mapping[str, str],
    lineage: str,
    notes: Sequence[str],
    skipped: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    """What a map was made of, by what, and the checksums of what was made.

    Args:
        plan: The run's plan.
        zone: The map's zone.
        folder: Of the item; its files are there, but for this one and the report.
        item: Its id.
        model: Name and fingerprint.
        lineage: What was done, in words.
        notes: Problems and doubts of the run.
        skipped: Scenes that were not used, each with the reason.

    Raises:
        OutputError: A file cannot be read.
    """
    later = (ASSETS["provenance"].file, ASSETS["report"].file)
    files = [kind.file for kind in ASSETS.values() if kind.file not in later and (folder / kind.file).is_file()]
    scenes = {scene.id: scene for scene in plan.scenes}
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "item": item,
        "run_id": plan.run_id,
        "lineage": lineage,
        "model": dict(model),
        "software": dict(plan.software),
        "inputs": [
            {
                "id": scene_id,
                "collection": scenes[scene_id].collection,
                "href": scenes[scene_id].self_href,
                "datetime": scenes[scene_id].datetime.isoformat(),
            }
            for scene_id in zone.scene_ids
        ],
        "not_used": [{"id": scene_id, "reason": reason} for scene_id, reason in skipped],
        "notes": list(notes),
        "outputs": {
            file: {"size": (folder / file).stat().st_size, "checksum": multihash(folder / file)} for file in files
        },
    }
    published: dict[str, Any] = public_document(document)
    return published


def _scene(scene: Scene) -> dict[str, Any]:
    """A scene as the plan has it, its files by their public addresses or, of local ones, their names."""

    def located(asset: dict[str, Any]) -> dict[str, Any]:
        copies = [located(copy) for copy in asset.get("copies", ())]
        found = {**asset, "href": _without_folder(public_address(str(asset["href"])))}
        return {**found, "copies": copies} if copies else found

    data = scene.to_dict()
    data["assets"] = {name: located(asset) for name, asset in data["assets"].items()}
    document: dict[str, Any] = public_document(data)
    return document


def _without_folders(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return {name: _without_folders(entry, name) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(entry, key) for entry in value]
    return _without_folder(value) if key in _PATHS and isinstance(value, str) else value


def _without_folder(text: str) -> str:
    """Of a path, its name; an address stays."""
    if "://" in text and not text.lower().startswith("file:"):
        return text
    return text.rstrip("/").rpartition("/")[2] or text
