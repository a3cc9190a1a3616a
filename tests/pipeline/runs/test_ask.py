"""A map asked in its own words answers with itself; free words get masks, polygons and an honest verdict."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from shapely.geometry import mapping, shape

from pipeline.explain.kept_run import open_kept_run
from pipeline.machine.progress import LogProgress
from pipeline.runs.ask import NONE_OF_THESE, ask
from spex_core.legend import Legend
from tests.conftest import tiny_config
from tests.pipeline.commands.test_cli import spex
from tests.pipeline.kept_runs import kept_run
from tests.spex_core.conftest import build_tiny_model


@pytest.fixture(scope="module")
def output(tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four small blocks of two sub-regions, mapped by a network with random weights."""
    folder = tmp_path_factory.mktemp("asked")
    model = build_tiny_model(Legend.from_yaml())
    model.save_pretrained(folder / "model")
    assert model.processor is not None
    model.processor.save_pretrained(folder / "model")
    region = json.loads((tiny_archive / "region.geojson").read_text())
    middle = shape(region["features"][0]["geometry"]).representative_point()
    halves = [
        shapely.box(middle.x + a, middle.y - 0.0035, middle.x + b, middle.y + 0.0035)
        for a, b in ((-0.005, 0), (0, 0.005))
    ]
    features = [
        {"type": "Feature", "properties": {"id": name, "name": name}, "geometry": mapping(half)}
        for name, half in zip(("west", "east"), halves, strict=True)
    ]
    (folder / "small.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    tiling = {"tile_px": 64, "overlap_px": 16, "block_px": 64}
    settings = {
        "model": {"checkpoint": str(folder / "model")},
        "tiling": tiling,
        "region": str(folder / "small.geojson"),
    }
    return kept_run(tiny_config(tiny_archive, folder / "out", **settings))


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return np.asarray(file.read(1))


def test_a_map_asked_for_its_own_classes_answers_with_itself(output: Path, tmp_path: Path) -> None:
    run = open_kept_run(output)
    answer = ask(run, (), LogProgress(), output=tmp_path, words=run.legend)
    (path,) = output.glob("spex-landcover/*/landcover.tif")
    assert np.array_equal(read(answer.outputs["mask"][0]), read(path))
    assert {one.verdict for one in answer.understood} == {"a class"}
    assert answer.exit_code == 0
    assert not list(output.glob(".spex/*/asked-*"))


def test_free_words_give_masks_and_polygons_that_agree(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = spex("ask", str(output), "frozen zebra", "water", "--json", "--min-pixels", "1", "--output", str(tmp_path))
    document = json.loads(capsys.readouterr().out)
    verdicts = [entry["verdict"] for entry in document["phrases"]]
    assert verdicts[1] == "a class"
    assert code == (3 if "unlike any class" in verdicts else 0)
    mask, confidence = read(tmp_path / "mask.tif"), read(tmp_path / "confidence.tif")
    (mapped,) = output.glob("spex-landcover/*/landcover.tif")
    assert np.array_equal(mask != 0, read(mapped) != 0)
    assert set(np.unique(mask)) <= {0, 1, 2, NONE_OF_THESE}
    collection = json.loads((tmp_path / "polygons.geojson").read_text())["features"]
    assert len(collection) == document["polygons"]
    for entry in document["phrases"]:
        chosen = mask == entry["code"]
        assert entry["area_ha"] == pytest.approx(chosen.sum() / 100)
        found = [f["properties"] for f in collection if f["properties"]["code"] == entry["code"]]
        assert sum(p["area_ha"] for p in found) == pytest.approx(chosen.sum() / 100)
        if found:
            assert entry["confidence"] == pytest.approx(confidence[chosen].mean() / 100, abs=1e-3)
            weighted = sum(p["area_ha"] * p["confidence"] for p in found) / sum(p["area_ha"] for p in found)
            assert weighted == pytest.approx(confidence[chosen].mean() / 100, abs=1e-3)
    assert pyogrio.read_info(tmp_path / "polygons.geojson")["features"] == len(collection)
    assert (tmp_path / "polygons.parquet").stat().st_size > 500


def test_a_sub_region_alone_is_answered_as_it_is_in_the_whole(output: Path, tmp_path: Path) -> None:
    run = open_kept_run(output)
    whole = ask(run, ["water"], LogProgress(), output=tmp_path / "whole")
    part = ask(run, ["water"], LogProgress(), output=tmp_path / "part", region_id="west")
    everything, inside = read(whole.outputs["mask"][0]), read(part.outputs["mask"][0])
    assert 0 < (inside != 0).sum() < (everything != 0).sum()
    assert np.array_equal(inside[inside != 0], everything[inside != 0])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("water", "--region", "north"), "has no sub-region 'north'; there are: west, east"),
        ((), "give either phrases or --legend"),
        (("<|x|>",), "brackets"),
        (("water", "--legend", "nowhere.yaml"), "give either"),
        (("--legend", "nowhere.yaml"), "cannot be read"),
    ],
)
def test_bad_questions_end_with_code_2(
    arguments: tuple[str, ...], told: str, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert spex("ask", str(output), *arguments) == 2
    assert told in capsys.readouterr().err


def test_scenes_that_are_gone_are_told(output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "out"
    shutil.copytree(output, copy)
    (plan,) = copy.glob(".spex/*/plan.json")
    plan.write_text(re.sub(r'"href":"[^"]*/([^/"]+)"', r'"href":"/nowhere/\1"', plan.read_text()))
    assert spex("ask", str(copy), "water") == 1
    assert "nothing can be asked of the map" in capsys.readouterr().err
    assert not (copy / "asked").exists() or not list((copy / "asked").glob("*/mask.tif"))
