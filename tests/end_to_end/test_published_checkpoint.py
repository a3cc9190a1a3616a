"""A checkpoint in the published format, tiny but whole: converted, mapped, asked, and asked why."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from pyproj import Transformer

import pipeline
from pipeline.engine.cluster import Cluster
from pipeline.explain.kept_run import open_kept_run
from pipeline.machine.progress import LogProgress
from pipeline.outputs.publish import publish_run
from pipeline.records.result import RunResult
from pipeline.runs.ask import ask
from pipeline.runs.preparation import prepare_run
from pipeline.runs.region_texts import RegionTexts
from pipeline.settings.published import check_published
from pipeline.settings.run_file import RunConfig
from spex_core.errors import CheckpointError
from tests.conftest import tiny_config
from tests.pipeline.commands.test_cli import spex
from tests.pipeline.kept_runs import kept_run
from tests.spex_core.published_state import TWO_CLASSES, converted

TILING = {"tile_px": 512, "overlap_px": 256, "block_px": 256, "resolution_m": 5.0}
"""The tiny archive at half its pixel size: four blocks, and each has a tile or two."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted checkpoint and a legend of two classes."""
    place = tmp_path_factory.mktemp("published")
    converted(place)
    (place / "two.yaml").write_text(TWO_CLASSES)
    return place


def config(folder: Path, archive: Path, output: Path, **settings: Any) -> RunConfig:
    model = {"checkpoint": str(folder / "ours"), **settings.pop("model", {})}
    tiling = TILING | settings.pop("tiling", {})
    settings = {"start": "2026-07-01", "legend": str(folder / "two.yaml")} | settings
    return tiny_config(archive, output, model=model, tiling=tiling, **settings)


@pytest.fixture(scope="module")
def output(folder: Path, tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map of two tiles, made in this process."""
    return kept_run(config(folder, tiny_archive, tmp_path_factory.mktemp("map"), tiling={"resolution_m": 10.0}))


def digest(result: RunResult) -> str:
    files = (result.outputs["landcover"][0], result.outputs["confidence"][0])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


@pytest.mark.ray
def test_one_actor_and_two_give_the_same_bytes(
    folder: Path, tiny_archive: Path, local_ray: Cluster, tmp_path: Path
) -> None:
    one = pipeline.run(config(folder, tiny_archive, tmp_path / "one", compute={"actors": 1}))
    two = pipeline.run(config(folder, tiny_archive, tmp_path / "two", compute={"actors": 2}))
    assert one.exit_code == two.exit_code == 0
    assert (one.tiles, one.blocks) == (6, 4)
    assert digest(one) == digest(two)
    with rasterio.open(one.outputs["landcover"][0]) as file:
        assert set(np.unique(file.read(1))) == {1, 2}


def test_a_map_asked_for_its_own_classes_answers_with_itself(output: Path, tmp_path: Path) -> None:
    run = open_kept_run(output)
    answer = ask(run, (), LogProgress(), output=tmp_path, words=run.legend)
    (path,) = output.glob("spex-landcover/*/landcover.tif")
    with rasterio.open(path) as mapped, rasterio.open(answer.outputs["mask"][0]) as mask:
        # Random weights leave both classes equal in places: where tiles overlap, the last bit of a mean decides.
        assert (mapped.read(1) != mask.read(1)).mean() < 2e-4
    assert {one.verdict for one in answer.understood} == {"a class"}


def test_it_is_asked_for_words_of_ones_own(output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = spex("ask", str(output), "zebra", "--json", "--min-pixels", "1", "--output", str(tmp_path))
    (found,) = json.loads(capsys.readouterr().out)["phrases"]
    assert code == (3 if found["verdict"] == "unlike any class" else 0)
    with rasterio.open(tmp_path / "mask.tif") as mask:
        assert set(np.unique(mask.read(1))) <= {0, 1, 200}


def test_sub_regions_are_told_of_in_its_words(folder: Path, tiny_archive: Path, output: Path) -> None:
    settings = config(folder, tiny_archive, output, tiling={"resolution_m": 10.0}, model={"explain": "brief"})
    prepared = prepare_run(settings)
    run = open_kept_run(output)
    assert prepared.plan.run_id == run.plan.run_id  # no pixel hangs on the texts
    words = RegionTexts.of(prepared, run.store, LogProgress())
    assert words is not None
    publish_run(prepared, run.store, LogProgress(), None, seconds=1.0, words=words)
    assert words.problems == []
    (path,) = output.glob("spex-landcover/*/explanations.json")
    regions = json.loads(path.read_text(encoding="utf-8"))["regions"]
    said = [sentence for region in regions for sentence in region["model_sentences"]]
    # What random weights write is in no language; it is kept, and nothing of it is printed.
    assert not any(sentence["printed"] for sentence in said)


@pytest.mark.long
def test_why_a_class_is_asked_on_the_whole_image(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = open_kept_run(output)
    grid = run.plan.zones[0].grid
    codes = run.store.zone(grid.epsg).read("landcover", run.plan.zones[0].blocks[0].window)
    row, col = (int(v[len(v) // 2]) for v in np.nonzero(codes))
    to = Transformer.from_crs(grid.epsg, 4326, always_xy=True)
    lon, lat = to.transform(grid.left + (col + 0.5) * grid.resolution_m, grid.top - (row + 0.5) * grid.resolution_m)
    assert spex("explain", str(output), "--at", f"{lon},{lat}", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recomputed"]
    assert found["calibrated"] is False
    assert "512" in json.dumps(found)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tiling": {"tile_px": 256, "overlap_px": 64}}, "sees 512 px: set it to 512, or leave it out"),
        ({"tiling": {"resolution_m": 20.0}}, "is not told their size: set it to 10"),
        ({"source": {"bands": ["B03", "B04", "B08"]}}, "the run does not read B02; add them to source.bands"),
    ],
)
def test_what_it_cannot_map_is_refused_before_anything_is_read(
    folder: Path, tiny_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: Any, message: str
) -> None:
    source = {"provider": "earth-search", "url": str(tiny_archive / "catalog.json"), **settings.pop("source", {})}
    run = config(folder, tiny_archive, tmp_path / "out", source=source, **settings)
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(run.model_dump(mode="json", exclude_unset=True)))
    assert spex("plan", str(file)) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_language_model_without_room_is_refused(folder: Path, tiny_archive: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "ours", tmp_path / "ours")
    path = tmp_path / "ours" / "config.json"
    document = json.loads(path.read_text())
    document["text_config"]["max_position_embeddings"] = 1024
    path.write_text(json.dumps(document))
    run = config(folder, tiny_archive, tmp_path, model={"checkpoint": str(tmp_path / "ours")})
    with pytest.raises(CheckpointError, match="reads 1024 tokens"):
        check_published(run)
