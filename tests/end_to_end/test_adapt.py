"""From a survey to a map of its own classes, in a run that names no legend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

import pipeline
from pipeline.engine.cluster import Cluster
from tests.pipeline.adaptation.test_adapt import adapted, without_legend

pytestmark = [pytest.mark.ray, pytest.mark.long]


def test_a_survey_becomes_a_map_of_its_classes(tiny_archive: Path, local_ray: Cluster, tmp_path: Path) -> None:
    config, options, made = adapted(tiny_archive, tmp_path)
    result = pipeline.run(without_legend(config, options.output))
    assert result.exit_code == 0
    with rasterio.open(result.outputs["landcover"][0]) as landcover:
        found = set(np.unique(landcover.read(1)).tolist())
    assert found <= {0, *made.legend.codes}
    assert found & set(made.legend.codes)
