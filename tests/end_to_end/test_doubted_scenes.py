"""A run whose metadata were wrong gives the map of right ones, and says so everywhere; exit code 3."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.commands.cli import app
from pipeline.engine.cluster import Cluster
from tests.conftest import TINY_SETTINGS
from tests.pipeline.runs.test_preparation import Archive

pytestmark = pytest.mark.ray


def test_a_corrected_scene_and_one_set_aside_are_told_on_every_page(
    tiny_archive: Path, local_ray: Cluster, tmp_path: Path
) -> None:
    archive = Archive(tiny_archive, tmp_path)
    archive.properties(only=0, earthsearch__boa_offset_applied=True)
    noise = np.random.default_rng(5)
    archive.files(lambda n: noise.integers(1, 60_000, n.shape).astype(np.uint16), only=1)
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": archive.items}))
    run_file = tmp_path / "run.yaml"
    region = str(tiny_archive / "region.geojson")
    source = {"provider": "earth-search", "url": str(tmp_path / "items.json")}
    run_file.write_text(json.dumps({**TINY_SETTINGS, "region": region, "output": "out", "source": source}))
    shown = CliRunner().invoke(app, ["run", str(run_file), "--json"])
    assert shown.exit_code == 3, shown.output
    corrected, aside = (item["id"] for item in archive.items)
    result = json.loads(shown.stdout.splitlines()[-1])
    assert [name for name, _ in result["doubtful_scenes"]] == [corrected]
    assert [name for name, _ in result["skipped_scenes"]] == [aside]
    item = json.loads(next((tmp_path / "out" / "spex-landcover").glob("tiny_*/tiny_*.json")).read_text())["properties"]
    assert item["spex:problems"] == 2
    (message,) = item["spex:problem_messages"]
    assert message.startswith(f"{corrected}: corrected: offset -0.1, not 0")
    report = next((tmp_path / "out" / "spex-landcover").glob("tiny_*/report.html")).read_text()
    assert "corrected: offset -0.1, not 0" in report
    assert "cannot be believed" in report
    plan = json.loads(next((tmp_path / "out" / ".spex").glob("*/plan.json")).read_text())
    assert plan["scenes"][0]["doubt"].startswith("corrected: offset -0.1")
    again = CliRunner().invoke(app, ["run", str(run_file)])
    assert again.exit_code == 3
    assert f"doubtful: {corrected}: corrected: offset -0.1, not 0" in again.output
