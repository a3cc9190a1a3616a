"""The run id and the run file: each field is named here with what it can do, tried on a plan.

A field that is in no list, or a listed effect that is not the true one, fails.
"""

from __future__ import annotations

import atexit
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from pydantic import BaseModel

from pipeline.planning.blocks import build_plan, read_plan, write_plan
from pipeline.settings.run_file import RunConfig
from spex_core.checkpoints import DEFAULT_CHECKPOINT, resolve_checkpoint
from tests.pipeline.planning.identity_plans import (
    AREA,
    FIRST,
    FUSE,
    GPU,
    RULES,
    TILING,
    changed_file,
    merged,
    plan_for,
    run_id,
)
from tests.pipeline.small_plans import LEGEND, region_of, run_config

# --- every field of the run file ----------------------------------------------------------------------------------


class Trial(NamedTuple):
    """One change, and whether it can change a pixel."""

    changes: bool
    change: dict[str, Any]
    given: dict[str, Any] = {}  # noqa: RUF012  # never written
    """Settings beside it."""


def pixels(change: dict[str, Any], given: dict[str, Any] | None = None) -> Trial:
    return Trial(True, change, given or {})


def nothing(change: dict[str, Any], given: dict[str, Any] | None = None) -> Trial:
    return Trial(False, change, given or {})


ELSEWHERE = str(resolve_checkpoint(DEFAULT_CHECKPOINT))
"""The same files under another name."""
BFLOAT = {"model": {"precision": "bfloat16"}}
UNMASKED = {"composite": {"mask_scl": [0, 1]}}
NETWORK = {"composite": {"cloud_mask": "model"}}


def _other_network() -> str:
    """A folder that is named, and its bytes are, like a cloud network's; nobody reads pixels with it."""
    folder = Path(tempfile.mkdtemp(prefix="spex-identity-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "config.json").write_text('{"model_type": "spex-clouds"}')
    (folder / "model.safetensors").write_bytes(b"other weights")
    return str(folder)


OTHER_NETWORK = {"composite": {"cloud_checkpoint": _other_network()}}

RUN_FILE: dict[str, list[Trial]] = {
    "name": [nothing({"name": "other"})],
    "region": [nothing({"region": "copy/of/region.geojson"})],  # what the file holds counts
    "start": [nothing({"start": "2026-04-01"})],  # what was found in the period counts
    "end": [nothing({"end": "2026-06-30"})],
    "output": [nothing({"output": "elsewhere"})],
    "legend": [nothing({"legend": "copy/of/legend.yaml"})],  # what the file holds counts
    # The search counts by the scenes that it found.
    "source.provider": [nothing({"source": {"provider": "generic"}})],
    "source.url": [nothing({"source": {"url": "https://mirror.example.org"}})],
    "source.others": [nothing({"source": {"others": [{"provider": "cdse"}]}})],
    "source.collection": [nothing({"source": {"collection": "other"}})],
    "source.bands": [nothing({"source": {"bands": ["B02", "B04", "B08"]}})],
    "source.max_cloud_cover": [nothing({"source": {"max_cloud_cover": 70}})],
    "source.max_scenes": [nothing({"source": {"max_scenes": 7}})],
    "source.allowed_schemes": [nothing({"source": {"allowed_schemes": ["https"]}})],
    "source.allowed_roots": [nothing({"source": {"allowed_roots": ["https://e.org/"]}})],
    "composite.method": [pixels(FIRST), pixels(FUSE)],
    "composite.mask_scl": [
        pixels({"composite": {"mask_scl": [0, 1, 3, 8, 9]}}),
        nothing({"composite": {"mask_scl": [10, 9, 9, 8, 3, 1, 0, 999, -1]}}),
        nothing({"composite": {"mask_scl": [1, 3, 8, 9, 10]}}),  # nodata is never used
        nothing({"composite": {"mask_scl": [0, 1]}}, NETWORK),  # its clouds and shadows are the network's
        pixels({"composite": {"mask_scl": [0, 1]}}, {"composite": {"cloud_mask": "both"}}),
    ],
    "composite.cloud_mask": [
        pixels(NETWORK),
        pixels({"composite": {"cloud_mask": "both"}}),
    ],
    "composite.cloud_checkpoint": [nothing(OTHER_NETWORK), pixels(OTHER_NETWORK, NETWORK)],
    "composite.reject_outliers": [
        pixels({"composite": {"reject_outliers": True}}),
        pixels({"composite": {"reject_outliers": True}}, FUSE),
    ],
    "composite.mask_dilation_px": [
        pixels({"composite": {"mask_dilation_px": 3}}),
        nothing({"composite": {"mask_dilation_px": 3}}, UNMASKED),  # nothing grows
        pixels({"composite": {"mask_dilation_px": 3}}, merged(UNMASKED, NETWORK)),
        nothing({"composite": {"mask_dilation_px": 3}}, {"tiling": {"resolution_m": 30}}),  # both one pixel
    ],
    "composite.max_observations": [
        pixels({"composite": {"max_observations": 1}}),
        nothing({"composite": {"max_observations": 9}}),  # there are three passes
        nothing({"composite": {"max_observations": 1}}, FIRST),
        pixels({"composite": {"max_observations": 1}}, FUSE),
    ],
    "model.checkpoint": [nothing({"model": {"checkpoint": ELSEWHERE}}), pixels(RULES)],  # what it holds counts
    "model.explain": [nothing({"model": {"explain": value}}) for value in ("brief", "full")],
    "model.device": [
        pixels({"model": {"device": "cuda"}}),
        nothing({"model": {"device": "cpu"}}),
        nothing({"model": {"device": "cuda:1"}}, GPU),
        nothing({"model": {"device": "auto"}}, GPU),
        nothing({"model": {"device": "cuda"}}, RULES),
    ],
    "model.precision": [
        pixels(BFLOAT),
        nothing({"model": {"precision": "float32"}}),
        nothing(BFLOAT, GPU),
        pixels({"model": {"precision": "float32"}}, GPU),
        nothing(BFLOAT, RULES),
    ],
    "model.compile": [
        pixels({"model": {"compile": "on"}}),
        nothing({"model": {"compile": "off"}}),
        nothing({"model": {"compile": "off"}}, GPU),  # few tiles
        nothing({"model": {"compile": "on"}}, RULES),
    ],
    "model.tiles_per_forward": [
        pixels({"model": {"tiles_per_forward": 2}}),
        nothing({"model": {"tiles_per_forward": 2}}, RULES),
    ],
    "tiling.resolution_m": [pixels({"tiling": {"resolution_m": 20}}), pixels({"tiling": {"resolution_m": 20}}, RULES)],
    "tiling.tile_px": [pixels({"tiling": {"tile_px": 96}})],
    "tiling.overlap_px": [pixels({"tiling": {"overlap_px": 32}})],
    "tiling.margin_px": [pixels({"tiling": {"margin_px": 2}}), nothing({"tiling": {"margin_px": 4}})],
    "tiling.block_px": [pixels({"tiling": {"block_px": 256}})],
    "compute.actors": [nothing({"compute": {"actors": 7}})],
    "compute.min_actors": [nothing({"compute": {"min_actors": 2}})],
    "compute.max_actors": [nothing({"compute": {"max_actors": 7}})],
    "compute.machines_within_s": [nothing({"compute": {"machines_within_s": 60}})],
    "compute.gpus_per_actor": [
        pixels({"compute": {"gpus_per_actor": 1}}),
        nothing({"compute": {"gpus_per_actor": 1}}, {"model": {"device": "cpu"}}),
        nothing({"compute": {"gpus_per_actor": 0.5}}, GPU),
        nothing({"compute": {"gpus_per_actor": 1}}, RULES),
    ],
    "compute.threads_per_actor": [
        pixels({"compute": {"threads_per_actor": 2}}),
        nothing({"compute": {"threads_per_actor": 2}}, RULES),
    ],
    "compute.readers": [nothing({"compute": {"readers": 3}})],
    "compute.prefetch": [nothing({"compute": {"prefetch": 9}})],
    "compute.attempts": [nothing({"compute": {"attempts": 9}})],
    "compute.answer_within_s": [nothing({"compute": {"answer_within_s": 60}})],
    "compute.object_store_mb": [nothing({"compute": {"object_store_mb": 512}})],
    "compute.address": [nothing({"compute": {"address": "auto"}})],
    "regions.id_field": [nothing({"regions": {"id_field": "code"}})],
    "regions.name_field": [nothing({"regions": {"name_field": "title"}})],
    "regions.grid_km": [nothing({"regions": {"grid_km": 1}})],
    "regions.max_regions": [nothing({"regions": {"max_regions": 7}})],
    "regions.layer": [nothing({"regions": {"layer": "fields"}})],  # what it chooses is in the areas
    "regions.where": [nothing({"regions": {"where": "id = 'a'"}})],
    "publish.clip": [pixels({"publish": {"clip": False}})],
    "publish.collection_id": [nothing({"publish": {"collection_id": "other"}})],
    "publish.scores": [nothing({"publish": {"scores": True}})],
    "publish.polygons": [nothing({"publish": {"polygons": True}})],
    "publish.unfamiliar": [
        pixels({"publish": {"unfamiliar": False}}),
        nothing({"publish": {"unfamiliar": False}}, RULES),
    ],
    "publish.mosaic": [nothing({"publish": {"mosaic": "EPSG:3035"}})],
    "publish.license": [nothing({"publish": {"license": "CC-BY-4.0"}})],
    "publish.providers": [nothing({"publish": {"providers": [{"name": "Survey", "roles": ["producer"]}]}})],
    "publish.citation": [nothing({"publish": {"citation": "Survey 2026"}})],
    "publish.url": [nothing({"publish": {"url": "https://maps.example.org"}})],
    "publish.overview_resampling": [nothing({"publish": {"overview_resampling": "nearest"}})],
}
"""Field → what was tried. A field that no trial calls pixel-changing cannot change one."""


def fields_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from fields_of(section, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_every_field_of_the_run_file_is_listed() -> None:
    assert set(fields_of(RunConfig)) == RUN_FILE.keys()
    assert len(RUN_FILE) > 35


def test_a_new_field_in_no_list_is_noticed() -> None:
    class Section(BaseModel):
        new: int = 1

    class WithMore(RunConfig):
        more: Section = Section()
        newer: int | None = None

    assert set(fields_of(WithMore)) - RUN_FILE.keys() == {"more.new", "newer"}


TRIALS = [(name, trial) for name, trials in RUN_FILE.items() for trial in trials]


@pytest.mark.parametrize(("name", "trial"), TRIALS, ids=[f"{n}-{i}" for i, (n, _) in enumerate(TRIALS)])
def test_the_run_id_changes_exactly_with_what_can_change_a_pixel(name: str, trial: Trial) -> None:
    before, after = (run_config(**merged({"tiling": TILING}, trial.given, c)) for c in ({}, trial.change))
    values = []
    for config in (before, after):
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        values.append(value)
    assert values[0] != values[1], "the trial does not touch its field"
    assert (run_id(trial.given, trial.change) != run_id(trial.given)) == trial.changes


# --- whole --------------------------------------------------------------------------------------------------------


def test_the_id_is_sixteen_hex_digits_and_survives_the_plan_file(tmp_path: Path) -> None:
    plan = plan_for()
    assert len(plan.run_id) == 16
    assert int(plan.run_id, 16) >= 0
    write_plan(plan, tmp_path / "plan.json")
    again = read_plan(tmp_path / "plan.json")
    config = RunConfig.model_validate(again.config)
    made = build_plan(
        config, region_of(AREA), again.scenes, model_fingerprint="weights", legend=LEGEND, software=again.software
    )
    assert made == plan


def test_no_two_pixel_changing_trials_share_an_id() -> None:
    """Nothing is mixed up: every listed change leads to an id of its own, unless it is the same change."""
    ids = {
        f"{name} {trial.change} {trial.given}": run_id(trial.given, trial.change)
        for name, trial in TRIALS
        if trial.changes
    }
    same = [(a, b) for a, b in itertools.combinations(ids, 2) if ids[a] == ids[b]]
    assert all("bfloat16" in a or "cuda" in a or "gpus" in a for a, _ in same), same
    assert len(set(ids.values())) > len(ids) - 4


def test_numbers_of_numpy_and_python_are_one() -> None:
    scenes = changed_file("B02", scale=float(np.float64(1e-4)), nodata=int(np.int64(0)))
    assert run_id(scenes=scenes) == run_id()
