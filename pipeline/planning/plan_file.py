"""The plan as a file: JSON with a schema version, written atomically, checked when read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from pipeline.errors import StoreError
from pipeline.machine.addresses import public_document
from pipeline.machine.atomic_files import write_text
from pipeline.machine.collection import collection_paused
from pipeline.records.plan import Block, MapPlan, Tile, Window, ZoneGrid, ZonePlan
from pipeline.records.scene import Scene

PLAN_SCHEMA = 1
"""Raised with every change of layout; a plan of another schema is refused, not guessed at."""


@collection_paused()
def write_plan(plan: MapPlan, path: str | Path) -> None:
    """Writes a plan under its final name only when it is complete and on disk; without signatures and passwords.

    Raises:
        OutputError: The file cannot be written.
    """
    text = json.dumps(_plan_to_dict(stored_plan(plan)), sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n"
    write_text(Path(path), text)


def stored_plan(plan: MapPlan) -> MapPlan:
    """A plan as its file has it: links and settings without what is secret in them, so that none can be opened by it
    that asks for a signature."""
    scenes = tuple(Scene.from_dict(public_document(scene.to_dict())) for scene in plan.scenes)
    return dataclasses.replace(plan, config=public_document(plan.config), scenes=scenes)


@collection_paused()
def read_plan(path: str | Path) -> MapPlan:
    """Reads what :func:`write_plan` wrote.

    Raises:
        StoreError: Missing, not a plan, or of another schema version.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"plan {path} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"plan {path} is not JSON: {error}; delete the run folder and plan again") from error
    if not isinstance(data, dict) or "schema" not in data:
        raise StoreError(f"{path} is not a plan: it has no 'schema'")
    if data["schema"] != PLAN_SCHEMA:
        raise StoreError(f"plan {path} has schema {data['schema']!r}, this version reads {PLAN_SCHEMA}; plan again")
    try:
        return _plan_from_dict(data)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError) as error:
        raise StoreError(f"plan {path} is damaged ({type(error).__name__}: {error}); plan again") from error


def _plan_to_dict(plan: MapPlan) -> dict[str, Any]:
    return {
        "schema": PLAN_SCHEMA,
        "run_id": plan.run_id,
        "config": plan.config,
        "software": plan.software,
        "scenes": [scene.to_dict() for scene in plan.scenes],
        "zones": [
            {
                "grid": vars(zone.grid),
                "scene_ids": zone.scene_ids,
                "blocks": [
                    {
                        "window": _window_to_list(block.window),
                        "read_window": _window_to_list(block.read_window),
                        "tiles": [[tile.index, *_window_to_list(tile.window)] for tile in block.tiles],
                        "needs": block.needs,
                    }
                    for block in zone.blocks
                ],
            }
            for zone in plan.zones
        ],
    }


def _plan_from_dict(data: dict[str, Any]) -> MapPlan:
    return MapPlan(
        run_id=str(data["run_id"]),
        config=dict(data["config"]),
        scenes=tuple(Scene.from_dict(scene) for scene in data["scenes"]),
        zones=tuple(
            ZonePlan(
                grid=ZoneGrid(**zone["grid"]),
                blocks=tuple(_block_from_dict(index, block) for index, block in enumerate(zone["blocks"])),
                scene_ids=tuple(str(i) for i in zone["scene_ids"]),
            )
            for zone in data["zones"]
        ),
        software={str(name): str(version) for name, version in data["software"].items()},
    )


def _block_from_dict(index: int, data: dict[str, Any]) -> Block:
    return Block(
        index=index,
        window=_window_from_list(data["window"]),
        read_window=_window_from_list(data["read_window"]),
        tiles=tuple(Tile(int(tile[0]), _window_from_list(tile[1:])) for tile in data["tiles"]),
        needs=tuple(int(i) for i in data["needs"]),
    )


def _window_to_list(window: Window) -> list[int]:
    return [window.row, window.col, window.height, window.width]


def _window_from_list(values: list[int]) -> Window:
    row, col, height, width = (int(v) for v in values)
    return Window(row, col, height, width)
