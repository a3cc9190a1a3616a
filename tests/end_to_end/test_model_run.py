"""A run with a real SPEX model (random weights): the same bytes from one actor and from two."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import rasterio

import pipeline
from pipeline.engine.cluster import Cluster
from pipeline.records.result import RunResult
from spex_core.legend import Legend
from tests.conftest import tiny_config
from tests.spex_core.conftest import build_tiny_model

pytestmark = pytest.mark.ray


def digest(result: RunResult) -> str:
    files = (result.outputs["landcover"][0], result.outputs["confidence"][0])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def test_one_actor_and_two_give_the_same_bytes(tiny_archive: Path, local_ray: Cluster, tmp_path: Path) -> None:
    checkpoint = tmp_path / "tiny-spex"
    model = build_tiny_model(Legend.from_yaml())
    model.save_pretrained(checkpoint)
    assert model.processor is not None
    model.processor.save_pretrained(checkpoint)
    settings = {"model": {"checkpoint": str(checkpoint), "tiles_per_forward": 3}}
    one = pipeline.run(tiny_config(tiny_archive, tmp_path / "one", compute={"actors": 1}, **settings))
    two = pipeline.run(tiny_config(tiny_archive, tmp_path / "two", compute={"actors": 2}, **settings))
    assert one.exit_code == two.exit_code == 0
    assert digest(one) == digest(two)
    with rasterio.open(one.outputs["confidence"][0]) as confidence:
        values = confidence.read(1)
    assert ((values >= 11) & (values <= 100) | (values == 255)).all()  # the best of nine classes has at least a ninth
