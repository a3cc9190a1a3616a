"""A small plan of two zones and three passes, whose run id the tests of identity compare. Test support, not a test."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import shapely

from pipeline.planning.blocks import build_plan
from pipeline.records.plan import MapPlan
from pipeline.records.region import Region
from pipeline.records.scene import SCL, Scene, SceneAsset
from spex_core.legend import Legend
from tests.pipeline.small_plans import LEGEND, region_of, run_config, scene_over

AREA = shapely.box(11.98, 46.0, 12.02, 46.02)  # straddles the border of zones 32 and 33
TILING = {"tile_px": 64, "overlap_px": 16, "block_px": 128}
SOFTWARE = {"numpy": "2", "torch": "2.13"}
RULES = {"model": {"checkpoint": "index-rules"}}
GPU = {"model": {"device": "cuda"}, "compute": {"gpus_per_actor": 1}}
FIRST = {"composite": {"method": "least-cloudy-first"}}
FUSE = {"composite": {"method": "fuse"}}


def asset(name: str, scene: str, **fields: Any) -> SceneAsset:
    gsd = 20.0 if name == SCL else 10.0
    grid = {"shape": (5490, 5490), "transform": (gsd, 0.0, 699_960.0, 0.0, -gsd, 5_200_020.0)}
    scale = {} if name == SCL else {"scale": 1e-4, "offset": -0.1}
    values = {"href": f"https://e.org/{scene}/{name}.tif", "gsd_m": gsd, **scale, **grid}
    return SceneAsset(**{**values, **fields})


def scene(scene_id: str, area: shapely.Geometry, *, day: int, **fields: Any) -> Scene:
    files = {name: asset(name, scene_id) for name in ("B02", "B08", SCL)}
    return scene_over(scene_id, area, day=day, **{"assets": files, **fields})


WEST, EAST, BOTH = (shapely.box(west, 45.5, east, 46.5) for west, east in ((11, 12), (12, 13), (11, 13)))
SCENES = (
    scene("west", WEST, day=3, cloud_cover=10.0),
    scene("east", EAST, day=2, cloud_cover=20.0),
    scene("late", BOTH, day=9, cloud_cover=30.0),
)


def merged(*parts: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for part in copy.deepcopy(parts):
        for key, value in part.items():
            out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


def plan_for(
    *settings: dict[str, Any],
    region: Region | None = None,
    scenes: Any = SCENES,
    model: str = "weights",
    legend: Legend = LEGEND,
    software: dict[str, str] = SOFTWARE,
) -> MapPlan:
    config = run_config(**merged({"tiling": TILING}, *settings))
    region = region or region_of(AREA)
    return build_plan(config, region, scenes, model_fingerprint=model, legend=legend, software=software)


def run_id(*settings: dict[str, Any], **inputs: Any) -> str:
    return plan_for(*settings, **inputs).run_id


def changed(position: int, **fields: Any) -> tuple[Scene, ...]:
    scenes = list(SCENES)
    scenes[position] = dataclasses.replace(scenes[position], **fields)
    return tuple(scenes)


def changed_file(name: str, **fields: Any) -> tuple[Scene, ...]:
    files = SCENES[0].assets
    return changed(0, assets={**files, name: dataclasses.replace(files[name], **fields)})
