"""Why a class, at a point: the same class and scores as the map, and an honest answer where that cannot be had."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from pyproj import Transformer
from shapely.geometry import mapping, shape

from pipeline.errors import BadInputError, OutputError
from pipeline.explain.kept_run import KeptRun, open_kept_run
from pipeline.explain.point import asked_start, explain_point
from pipeline.explain.point_words import odds_text, point_document
from pipeline.explain.recomputed import model_of, recompute
from pipeline.records.grid import grid_window
from pipeline.records.plan import Window
from spex_core.legend import Legend
from tests.conftest import tiny_config
from tests.pipeline.commands.test_cli import spex
from tests.pipeline.kept_runs import kept_run
from tests.spex_core.conftest import build_tiny_model


def lonlat(run: KeptRun, row: int, col: int) -> tuple[float, float]:
    grid = run.plan.zones[0].grid
    to = Transformer.from_crs(grid.epsg, 4326, always_xy=True)
    lon, lat = to.transform(grid.left + (col + 0.5) * grid.resolution_m, grid.top - (row + 0.5) * grid.resolution_m)
    return float(lon), float(lat)


def mapped_pixels(run: KeptRun, count: int, seed: int = 0) -> list[tuple[int, int]]:
    """Pixels of the map: at random, and where blocks and tiles meet."""
    zone = run.plan.zones[0]
    codes = run.store.zone(zone.grid.epsg).read("landcover", grid_window(zone.grid))
    rng = np.random.default_rng(seed)
    rows, columns = np.nonzero(codes)
    picked = rng.choice(len(rows), count, replace=False)
    meeting = [(127, 127), (128, 128), (127, 128), (40, 44), (48, 48)]
    return [(int(rows[i]), int(columns[i])) for i in picked] + [at for at in meeting if codes[at]]


def test_pixels_computed_again_are_the_maps(output: Path) -> None:
    run = open_kept_run(output)
    model = model_of(run.config, run.legend)
    pixels = mapped_pixels(run, 12)
    assert len(pixels) >= 15
    for row, col in pixels:
        pixel = run.pixel(*lonlat(run, row, col))
        assert (pixel.row, pixel.col) == (row, col)
        again = recompute(run, pixel, model)
        stored = run.store.zone(pixel.zone.grid.epsg).read("scores", pixel.window)[:, 0, 0]
        assert np.array_equal(np.rint(again.scores * 255).astype(np.uint8), stored)
        assert again.code == pixel.code
        assert again.valid_count == run.store.zone(pixel.zone.grid.epsg).read("valid_count", pixel.window)[0, 0]


def test_pixels_of_joined_dates_are_the_maps(tiny_archive: Path, tmp_path: Path) -> None:
    run = open_kept_run(kept_run(tiny_config(tiny_archive, tmp_path, composite={"method": "fuse"})))
    model = model_of(run.config, run.legend)
    for row, col in mapped_pixels(run, 6, seed=1):
        pixel = run.pixel(*lonlat(run, row, col))
        again = recompute(run, pixel, model)
        stored = run.store.zone(pixel.zone.grid.epsg).read("scores", pixel.window)[:, 0, 0]
        assert np.array_equal(np.rint(again.scores * 255).astype(np.uint8), stored)
        assert again.code == pixel.code


def test_a_network_sees_what_it_saw_for_the_map(tiny_archive: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "tiny-spex"
    model = build_tiny_model(Legend.from_yaml())
    model.save_pretrained(checkpoint)
    assert model.processor is not None
    model.processor.save_pretrained(checkpoint)
    region = json.loads((tiny_archive / "region.geojson").read_text())
    middle = shape(region["features"][0]["geometry"]).representative_point()
    area = mapping(shapely.box(middle.x - 0.005, middle.y - 0.0035, middle.x + 0.005, middle.y + 0.0035))
    small = tmp_path / "small.geojson"
    small.write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": area}))
    tiling = {"tile_px": 64, "overlap_px": 16, "block_px": 64}
    settings = {"model": {"checkpoint": str(checkpoint)}, "tiling": tiling, "region": str(small)}
    run = open_kept_run(kept_run(tiny_config(tiny_archive, tmp_path / "out", **settings)))
    assert len(run.plan.zones[0].blocks) == 4
    model = model_of(run.config, run.legend)
    for at in ((63, 63), (64, 66)):  # decided by four tiles of four blocks
        pixel = run.pixel(*lonlat(run, *at))
        stored = run.store.zone(pixel.zone.grid.epsg).read("scores", pixel.window)[:, 0, 0]
        assert np.array_equal(np.rint(recompute(run, pixel, model).scores * 255).astype(np.uint8), stored)


def test_an_explanation_says_what_is_measured(output: Path) -> None:
    run = open_kept_run(output)
    row, col = mapped_pixels(run, 1)[0]
    found = explain_point(run, *lonlat(run, row, col))
    document = point_document(found)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["recomputed"]
    assert document["same_scores"]
    assert {scene["fate"] for scene in document["scenes"]} == {"used"}
    assert len(document["scenes"]) == found.sightings[0].datetime.year - 2024 == 2
    spectrum = np.array([*document["spectrum"].values()])
    values = []
    for scene in run.scenes(found.pixel.zone):  # the 10 m bands, read here without the pipeline
        with rasterio.open(scene.assets["B04"].href) as file:
            grid = found.pixel.zone.grid
            x, y = grid.left + (col + 0.5) * 10, grid.top - (row + 0.5) * 10
            dn = next(file.sample([(x, y)]))[0]
        values.append(dn * scene.assets["B04"].scale + scene.assets["B04"].offset)
    assert spectrum[2] == pytest.approx(np.median(values), abs=2e-4)
    assert document["indices"]["ndvi"] == pytest.approx(
        (spectrum[6] - spectrum[2]) / (spectrum[6] + spectrum[2]), abs=2e-3
    )
    text = document["text"]
    assert text.startswith(f"{found.own.name} at ")
    assert "not calibrated" in text  # index rules
    assert document["region"] is None or document["region"]["text"] in text


@pytest.mark.parametrize(
    ("where", "told"),
    [("5,46", "outside the map"), ("190,46", "is no place"), ("abc", "not LON,LAT"), ("nan,46", "not LON,LAT")],
)
def test_a_point_off_the_map_ends_with_code_2(
    where: str, told: str, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert spex("explain", str(output), "--at", where) == 2
    said = capsys.readouterr()
    assert told in said.err
    assert len(said.err.splitlines()) == 1
    assert not said.out


def test_ground_that_nobody_saw_is_told_as_that(output: Path, tmp_path: Path) -> None:
    copy = tmp_path / "out"
    shutil.copytree(output, copy)
    run = open_kept_run(copy)
    zone = run.plan.zones[0]
    store = run.store.zone(zone.grid.epsg)
    row, col = mapped_pixels(run, 1)[0]
    for layer in ("landcover", "valid_count"):
        store.array(layer)[row, col] = 0
    with pytest.raises(BadInputError, match="no scene saw the ground there without cloud"):
        explain_point(run, *lonlat(run, row, col))


def test_scenes_that_are_gone_are_told_and_the_store_still_answers(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "out"
    shutil.copytree(output, copy)
    (plan,) = copy.glob(".spex/*/plan.json")
    plan.write_text(re.sub(r'"href":"[^"]*/([^/"]+)"', r'"href":"/nowhere/\1"', plan.read_text()))
    run = open_kept_run(copy)
    at = lonlat(run, *mapped_pixels(run, 1)[0])
    assert spex("explain", str(copy), "--at", f"{at[0]},{at[1]}", "--json", "--plot", str(tmp_path / "a.png")) == 3
    document = json.loads(capsys.readouterr().out)
    assert not document["recomputed"]
    assert document["attribution"] is None
    assert document["spectrum"] is None
    assert "cannot be read again" in document["notes"][0]
    assert document["class"]["code"] == run.pixel(*at).code
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_other_values_in_the_scenes_places_are_noticed(output: Path, tmp_path: Path) -> None:
    copy = tmp_path / "out"
    shutil.copytree(output, copy)
    (plan,) = copy.glob(".spex/*/plan.json")
    plan.write_text(plan.read_text().replace('"offset":-0.1', '"offset":0.15'))
    run = open_kept_run(copy)
    found = [explain_point(run, *lonlat(run, row, col)) for row, col in mapped_pixels(run, 2)[:3]]
    assert not any(one.same_scores for one in found)
    changed = [one for one in found if not one.recomputed]
    assert changed
    assert all("other files, another model or other versions" in one.notes[0] for one in changed)
    kept = [one for one in found if one.recomputed]
    assert all("Scores differ from the map's" in one.notes[0] for one in kept)


def test_files_of_a_server_that_was_here_are_found_in_the_archive(
    output: Path, tiny_archive: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "out"
    shutil.copytree(output, copy)
    shutil.copytree(tiny_archive, copy / "archive")
    (plan,) = copy.glob(".spex/*/plan.json")
    plan.write_text(plan.read_text().replace(f'"{tiny_archive}/', '"http://127.0.0.1:1/'))
    run = open_kept_run(copy)
    assert "http://127.0.0.1:1/" in plan.read_text()
    found = explain_point(run, *lonlat(run, *mapped_pixels(run, 1)[0]))
    assert found.recomputed
    assert found.same_scores


def test_a_store_that_was_cleaned_away_is_told(output: Path, tmp_path: Path) -> None:
    copy = tmp_path / "out"
    shutil.copytree(output, copy)
    (plan,) = copy.glob(".spex/*/plan.json")
    plan.rename(plan.with_name("cleaned-plan.json"))
    with pytest.raises(OutputError, match="cleaned away"):
        open_kept_run(copy)
    with pytest.raises(OutputError, match="holds no run"):
        open_kept_run(tmp_path)


@pytest.mark.parametrize(
    ("odds", "text"),
    [(32.4, "32 to 1"), (2.24, "2.2 to 1"), (0.25, "1 to 4"), (1.0, "1 to 1"), (1e9, "more than 1000 to 1")],
)
def test_odds_are_written_as_people_say_them(odds: float, text: str) -> None:
    assert odds_text(odds) == text


@pytest.mark.parametrize("place", [0, 5, 100, 250, 511])
def test_the_piece_that_is_asked_about_lies_in_the_tile_and_holds_the_pixel(place: int) -> None:
    start = asked_start(place, 192, 512)
    assert start % 32 == 0
    assert 0 <= start <= 320
    assert start <= place < start + 192
    assert asked_start(place % 64, 64, 64) == 0
    assert Window(start, 0, 192, 1).height == 192
