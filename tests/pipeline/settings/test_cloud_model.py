"""The cloud network of a run file: found beside it, checked before anything is computed, refused in one message."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.planning.prepare import prepare
from pipeline.settings.cloud_model import check_cloud_mask, cloud_fingerprint
from pipeline.settings.run_file import CompositeConfig, RunConfig
from spex_core.bands import SENTINEL2_BANDS
from spex_core.checkpoints import DEFAULT_CLOUD_CHECKPOINT, resolve_checkpoint
from spex_core.errors import CheckpointError
from tests.conftest import tiny_config

RUN = "name: x\nregion: r.geojson\nstart: 2026-06-01\nend: 2026-06-30\n"


def composite(**settings: Any) -> CompositeConfig:
    return CompositeConfig.model_validate(settings)


def test_a_folder_is_relative_to_the_run_file(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"{RUN}composite: {{cloud_mask: both, cloud_checkpoint: ./clouds}}\n")
    config = RunConfig.from_yaml(tmp_path / "run.yaml")
    assert config.composite.cloud_checkpoint == str(tmp_path / "clouds")
    (tmp_path / "run.yaml").write_text(RUN)
    assert RunConfig.from_yaml(tmp_path / "run.yaml").composite.cloud_checkpoint == DEFAULT_CLOUD_CHECKPOINT


def test_what_is_no_cloud_network_is_refused_before_anything_is_computed(tmp_path: Path, tiny_archive: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(resolve_checkpoint(DEFAULT_CLOUD_CHECKPOINT), damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    for checkpoint, words in (
        ("spex-s2-tiny", "detects no clouds"),
        ("nowhere", "neither a folder"),
        (damaged, "read"),
    ):
        asked = {"cloud_mask": "model", "cloud_checkpoint": str(checkpoint)}
        with pytest.raises(CheckpointError, match=words):
            prepare(tiny_config(tiny_archive, tmp_path / "out", composite=asked))
        prepare(tiny_config(tiny_archive, tmp_path / "out", composite={**asked, "cloud_mask": "scl"}))
    with pytest.raises(CheckpointError, match="of type 'spex-clouds'"):
        prepare(tiny_config(tiny_archive, tmp_path / "out", model={"checkpoint": DEFAULT_CLOUD_CHECKPOINT}))


def test_bands_that_tell_nothing_of_clouds_are_refused() -> None:
    for bands in (("B05", "B06", "B07"), ("B06", "B07", "B08", "B8A")):
        with pytest.raises(ConfigError, match="knows only"):
            check_cloud_mask(composite(cloud_mask="both"), bands)
        check_cloud_mask(composite(), bands)
    check_cloud_mask(composite(cloud_mask="both"), ("B02", "B03", "B04"))
    with pytest.raises(ConfigError, match="near infrared"):
        check_cloud_mask(composite(reject_outliers=True), ("B02", "B03", "B04"))
    with pytest.raises(ValueError, match="compares dates: set method to median or fuse"):
        composite(reject_outliers=True, method="least-cloudy-first")
    assert composite(reject_outliers=True, method="fuse").reject_outliers


def test_only_a_network_in_force_has_an_identity() -> None:
    assert cloud_fingerprint(composite()) is None
    assert cloud_fingerprint(composite(cloud_mask="both")) == cloud_fingerprint(composite(cloud_mask="model"))
    check_cloud_mask(composite(cloud_mask="model"), SENTINEL2_BANDS)
