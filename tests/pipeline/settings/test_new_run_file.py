"""``spex init``: a run file that says what was asked, that ``spex plan`` takes, and that replaces nothing unasked."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import pytest
import shapely
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError, RegionError
from pipeline.records.region import read_region
from pipeline.settings import new_run_file
from pipeline.settings.new_run_file import NewRun, last_month, name_from, read_bbox, write_run_file
from pipeline.settings.new_run_options import new_run
from pipeline.settings.run_file import RunConfig
from spex_core.errors import SpexError
from tests.pipeline.commands.test_cli import _quiet, spex

__all__ = ["_quiet"]
DAYS = {"start": dt.date(2026, 6, 1), "end": dt.date(2026, 7, 31)}
TODAY = dt.date(2026, 3, 15)


def options(**given: Any) -> NewRun:
    names = ("bbox", "region", "start", "end", "name", "url")
    return new_run(**{**dict.fromkeys(names), "provider": "earth-search", "today": TODAY, **given})


def test_plan_takes_what_init_writes(
    tiny_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    area = [*("--region", str(tiny_archive / "region.geojson")), *("--url", str(tiny_archive / "catalog.json"))]
    assert spex("init", *area, "--start", "2026-06-01", "--end", "2026-07-31", "--name", "tiny", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"run_file": "run.yaml", "written": ["run.yaml"]}
    assert spex("plan", "run.yaml", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["scenes"]) == 2
    config = RunConfig.from_yaml(Path("run.yaml"))
    assert (config.name, config.output) == ("tiny", tmp_path / "out" / "tiny")


def test_every_default_that_it_shows_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    write_run_file(path, NewRun("a", **DAYS, bbox=(4.8, 50.5, 5.2, 50.8)))
    lines = path.read_text().splitlines()
    shown = [re.sub(r"^# (?=( {2})?[a-z_]+:)", "", line) for line in lines if "url:" not in line]
    assert len([line for line in lines if line.startswith("# ")]) > 12
    as_shown, as_written = (
        RunConfig.from_dict(yaml.safe_load("\n".join(text)), tmp_path).model_dump() for text in (shown, lines)
    )
    as_shown["legend"] = as_written["legend"]
    assert as_shown == as_written
    assert yaml.safe_load("\n".join(shown)).keys() >= {"composite", "model", "compute", "publish", "regions", "legend"}


@pytest.mark.parametrize(
    ("bbox", "width"),
    [
        ("4.8,50.5,5.2,50.8", 0.4),
        ("-0.2,51.4,0.2,51.6", 0.4),
        ("179.8,-16.2,-179.9,-16", 0.3),
        (" 1 , -2 , 1.5 , -1 ", 0.5),
    ],
)
def test_a_box_is_the_region_that_it_says(bbox: str, width: float, tmp_path: Path) -> None:
    files = write_run_file(tmp_path / "run.yaml", options(bbox=bbox, name="box"))
    assert files == (tmp_path / "box.geojson", tmp_path / "run.yaml")
    config = RunConfig.from_yaml(files[1])
    west, south, east, north = read_bbox(bbox)
    region = read_region(config.region, grid_km=config.regions.grid_km)
    assert shapely.area(region.geometry) == pytest.approx(width * (north - south), rel=1e-6)
    assert region.geometry.covers(shapely.Point(west, (south + north) / 2))
    assert region.geometry.covers(shapely.Point(east, (south + north) / 2))


def test_a_large_area_gets_cells_that_a_run_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_run_file, "GRID_KM", (0.01, 0.02, 7.0))  # as too small for this box as 5 km for a country
    write_run_file(tmp_path / "run.yaml", options(bbox="4.8,50.5,5.2,50.8", name="large"))
    assert RunConfig.from_yaml(tmp_path / "run.yaml").regions.grid_km == 7
    monkeypatch.setattr(new_run_file, "GRID_KM", (0.01, 0.02))
    with pytest.raises(RegionError, match="max_regions"):
        write_run_file(tmp_path / "no.yaml", options(bbox="4.8,50.5,5.2,50.8", name="no"))
    assert not (tmp_path / "no.yaml").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "--bbox W,S,E,N, or --region FILE"),
        ({"bbox": "1,2,3,4", "region": Path("r.geojson")}, "not both"),
        ({"bbox": "1,2,3"}, "not four numbers"),
        ({"bbox": "1;2;3;4"}, "not four numbers"),
        ({"bbox": "nan,2,3,4"}, "no number"),
        ({"bbox": "1,50,2,40"}, "south must be below north"),
        ({"bbox": "1,40,1,50"}, "no area"),
        ({"bbox": "500000,5600000,510000,5610000"}, "outside the Earth"),
        ({"bbox": "0,85,2,88"}, "leaves the latitudes of UTM"),
        ({"bbox": "1,2,3,4", "name": "../up"}, "name"),
        ({"bbox": "1,2,3,4", "name": "a\nb: c"}, "name"),
        ({"bbox": "1,2,3,4", "provider": "earthsearch"}, "did you mean earth-search"),
        ({"bbox": "1,2,3,4", "provider": "generic"}, "--url"),
        ({"bbox": "1,2,3,4", "start": "soon"}, "--start"),
        ({"bbox": "1,2,3,4", "end": "2026"}, "--end"),
        ({"bbox": "1,2,3,4", "start": "2026-02-01", "end": "2026-01-01"}, "before --start"),
        ({"region": Path(__file__)}, "test_new_run_file"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_written(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SpexError, match=re.escape(message)):
        write_run_file(tmp_path / "run.yaml", options(**given))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("there", ["run.yaml", "a.geojson", "link"])
def test_nothing_is_replaced_unasked(
    there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    if there == "link":
        (tmp_path / "run.yaml").symlink_to("mine.txt")
    else:
        (tmp_path / there).write_text("mine")
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    arguments = ("init", "--bbox", "-1.5,2,-1,2.5", "--name", "a")
    assert spex(*arguments) == 2
    assert "is there already" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
    assert spex(*arguments, "--force") == 0
    assert RunConfig.from_yaml(tmp_path / "run.yaml").name == "a"
    assert (tmp_path / "mine.txt").read_text() == "mine", "a link is replaced, not written through"


def test_days_that_are_not_given_are_whole_months() -> None:
    assert (options().start, options().end) == (dt.date(2026, 2, 1), dt.date(2026, 2, 28))
    assert options(start="2024-02-10").end == dt.date(2024, 2, 29)
    assert options(end="2025-12-20").start == dt.date(2025, 12, 1)
    assert last_month(dt.date(2026, 1, 1)) == (dt.date(2025, 12, 1), dt.date(2025, 12, 31))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("Côte d'Or.gpkg", "C-te-d-Or"),
        ("alps.shp.zip", "alps"),
        ("..geojson", "my-map"),
        ("земля.json", "my-map"),
        ("-_x.kml", "x"),
        (f"{'a' * 200}.json", "a" * 100),
        ("\x1b[31m\n.json", "31m"),
    ],
)
def test_any_file_name_gives_a_name_that_a_run_can_have(file: str, name: str) -> None:
    assert name_from(Path(file)) == name


@given(st.text(alphabet="0123456789.,-+e naif", max_size=40))
def test_any_box_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigError):
        west, south, east, north = read_bbox(text)
        assert south < north
        assert west != east


def test_odd_paths_stay_what_they_are(tmp_path: Path) -> None:
    odd = tmp_path / "a: #b 'c' \"d\".geojson"
    odd.write_text(json.dumps({"type": "Polygon", "coordinates": [[[5, 50], [5.1, 50], [5.1, 50.1], [5, 50]]]}))
    write_run_file(tmp_path / "deep" / "run.yaml", options(region=odd, url="https://a.example/v1?x=1#y"))
    config = RunConfig.from_yaml(tmp_path / "deep" / "run.yaml")
    assert (config.region, config.source.url) == (odd, "https://a.example/v1?x=1#y")
