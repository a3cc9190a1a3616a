"""From a survey to a map of its own classes: the checkpoint that ``spex adapt`` makes, in a run that names no legend."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from pyproj import Transformer

import pipeline
from pipeline.adaptation.adapt import AdaptOptions, adapt
from pipeline.engine.cluster import Cluster
from pipeline.errors import OutputError
from pipeline.machine.progress import LogProgress
from pipeline.settings.run_file import RunConfig
from spex_core.errors import CheckpointError
from spex_core.legend import Legend
from tests.conftest import tiny_config
from tests.spex_core.conftest import build_tiny_model

pytestmark = pytest.mark.ray

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


def test_a_survey_becomes_a_map_of_its_classes(
    tiny_archive: Path, local_ray: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.adaptation.validation.TREES", 10)
    monkeypatch.setattr("pipeline.adaptation.validation.FOLDS", 2)
    monkeypatch.setattr("pipeline.adaptation.adapt.DOMAIN_WINDOWS", 2)
    model = build_tiny_model(Legend.from_yaml(), band_encoding=True)
    model.config.masks_by_class_words = True
    model.save_pretrained(tmp_path / "base")
    points = survey_of(tiny_archive, tmp_path / "points.csv", 60)
    config = without_legend(tiny_config(tiny_archive, tmp_path / "map"), tmp_path / "base")
    options = AdaptOptions(points, "class", tmp_path / "models" / "own")
    made = adapt(config, options, LogProgress())
    assert made.legend.names == ("arable field", "meadow", "spruce forest")
    assert made.validation is not None
    assert sum(made.samples.values()) == made.validation.samples > 30
    assert sorted(path.name for path in options.output.glob("*.[my]*")) == [
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

    result = pipeline.run(without_legend(config, options.output))
    assert result.exit_code == 0
    with rasterio.open(result.outputs["landcover"][0]) as landcover:
        assert set(np.unique(landcover.read(1))) <= {0, *made.legend.codes}
        assert "meadow" in json.dumps(landcover.tags()) or landcover.colormap(1)[2]
