"""A survey over the tiny archive becomes a checkpoint folder; the map that is made with it is an end-to-end test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from pyproj import Transformer

import pipeline
from pipeline.adaptation.adapt import AdaptOptions, adapt
from pipeline.adaptation.result import Adaptation
from pipeline.errors import OutputError
from pipeline.machine.progress import LogProgress
from pipeline.settings.run_file import RunConfig
from spex_core.errors import CheckpointError
from spex_core.legend import Legend
from tests.conftest import tiny_config
from tests.spex_core.conftest import build_tiny_model

NAMES = {10: "spruce forest", 30: "meadow", 40: "arable field"}


def survey_of(archive: Path, path: Path, count: int) -> Path:
    """Points of the simulated truth."""
    with rasterio.open(next((archive / "truth").glob("*.tif"))) as truth:
        codes, transform, crs = truth.read(1), truth.transform, truth.crs
    to_lonlat = Transformer.from_crs(crs, 4326, always_xy=True)
    lines = ["lon,lat,class"]
    for place in np.random.default_rng(0).choice(codes.size, count, replace=False):
        row, col = divmod(int(place), codes.shape[1])
        lon, lat = to_lonlat.transform(*(transform * (col + 0.5, row + 0.5)))
        if int(codes[row, col]) in NAMES:
            lines.append(f"{lon:.7f},{lat:.7f},{NAMES[int(codes[row, col])]}")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def without_legend(config: RunConfig, checkpoint: Path) -> RunConfig:
    assert "legend" not in config.model_fields_set
    return config.model_copy(update={"model": config.model.model_copy(update={"checkpoint": str(checkpoint)})})


def adapted(archive: Path, folder: Path) -> tuple[RunConfig, AdaptOptions, Adaptation]:
    """A tiny random model, adapted to the survey."""
    model = build_tiny_model(Legend.from_yaml(), band_encoding=True)
    model.config.masks_by_class_words = True
    model.save_pretrained(folder / "base")
    points = survey_of(archive, folder / "points.csv", 60)
    config = without_legend(tiny_config(archive, folder / "map"), folder / "base")
    options = AdaptOptions(points, "class", folder / "models" / "own")
    return config, options, adapt(config, options, LogProgress())


def test_a_survey_becomes_a_checkpoint_with_a_card(
    tiny_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.adaptation.validation.TREES", 10)
    monkeypatch.setattr("pipeline.adaptation.validation.FOLDS", 2)
    monkeypatch.setattr("pipeline.adaptation.adapt.DOMAIN_WINDOWS", 2)
    config, options, made = adapted(tiny_archive, tmp_path)
    assert made.legend.names == ("arable field", "meadow", "spruce forest")
    assert made.validation is not None
    assert sum(made.samples.values()) == made.validation.samples > 30
    assert sorted(path.name for path in options.output.glob("*.[mys]*")) == [
        "README.md", "legend.yaml", "model.safetensors"
    ]  # fmt: skip
    card = (options.output / "README.md").read_text()
    assert f"| random forest, same points | {made.validation.forest.overall:.3f} |" in card
    assert json.loads((options.output / "validation.json").read_text())["validation"]["samples"] > 30
    assert not list(options.output.parent.glob(".*"))
    with pytest.raises(OutputError, match="--replace"):
        adapt(config, options, LogProgress())
    with pytest.raises(CheckpointError, match="adapted to a legend with the codes 1 2 3"):
        pipeline.plan(without_legend(config, options.output).model_copy(update={"legend": "worldcover9"}))
