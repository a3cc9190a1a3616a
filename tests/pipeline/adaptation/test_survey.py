"""Surveys as people send them: what is wrong is told with what is there, and what can be used is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely

from pipeline.adaptation.own_legend import matched, proposed_legend, similar_code
from pipeline.adaptation.samples import block_ids, block_side, labelled_pixels, windows_of
from pipeline.adaptation.survey import LabelledPlace, Survey, read_survey
from pipeline.errors import SurveyError
from pipeline.records.plan import ZoneGrid


def geojson(path: Path, *features: tuple[object, dict[str, object]], **members: object) -> Path:
    listed = [{"type": "Feature", "geometry": g, "properties": p} for g, p in features]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": listed, **members}), encoding="utf-8")
    return path


def point(x: float, y: float) -> dict[str, object]:
    return {"type": "Point", "coordinates": [x, y]}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("lon,lat,class\n9.1,46.2,lake\n9.2,46.3,Wood\n", ("lake", "Wood")),
        ("\ufeffLongitude;Latitude;CLASS;date\n9.1;46.2;lake;2025-07-01\n", ("lake",)),
        ("lat\tlon\tclass\n46.2\t9.1\tlake\n", ("lake",)),
    ],
)
def test_tables_of_several_spellings_are_read(tmp_path: Path, text: str, names: tuple[str, ...]) -> None:
    path = tmp_path / "points.csv"
    path.write_text(text, encoding="utf-8")
    survey = read_survey(path, "class")
    assert survey.names == names
    assert survey.places[0].geometry == shapely.Point(9.1, 46.2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lon,lat,landuse\n9,46,lake\n", "no column 'class'; there are: 'lon', 'lat', 'landuse'"),
        ("x,y,class\n9,46,lake\n", "no column 'lon'; there are: 'x', 'y', 'class'"),
        ("lon,lat,class\n512345,5112345,lake\n", "no longitude and latitude"),
        ("lon,lat,class\n,46,lake\n9,46,\nnan,46,lake\n", "2 without a position"),
        ("", "no column 'lon'; there are: none"),
        ("lon,lat,class\n" + "".join(f"9,46,plot {n}\n" for n in range(90)), "90 different values"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_what_is_there(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "points.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SurveyError, match=r"points file|no longitude|column") as caught:
        read_survey(path, "class")
    assert said in str(caught.value)


def test_a_geopackage_in_metres_is_read_and_its_columns_are_told(tmp_path: Path) -> None:
    path = tmp_path / "survey.gpkg"
    pyogrio.raw.write(
        path,
        geometry=np.array([shapely.Point(500_000, 5_100_000).wkb, None], object),
        field_data=[np.array(["lake", "wood"], object), np.array([1, 2])],
        fields=["landuse", "visit"],
        geometry_type="Point",
        crs="EPSG:32632",
        layer="survey",
        driver="GPKG",
    )
    survey = read_survey(path, "landuse")
    (place,) = survey.places
    assert (place.geometry.x, place.geometry.y) == pytest.approx((9.0, 46.05), abs=0.01)
    assert survey.left_out == {"without a position": 1}
    with pytest.raises(SurveyError, match="no column 'class'; there are: 'landuse', 'visit'"):
        read_survey(path, "class")


def test_features_that_say_nothing_are_left_out_with_a_count(tmp_path: Path) -> None:
    line = {"type": "LineString", "coordinates": [[9, 46], [9.1, 46]]}
    square = {"type": "Polygon", "coordinates": [[[9, 46], [9.1, 46], [9.1, 46.1], [9, 46]]]}
    path = geojson(
        tmp_path / "s.geojson",
        (point(9, 46), {"class": "lake"}),
        (square, {"class": " lake "}),
        (None, {"class": "lake"}),
        (line, {"class": "lake"}),
        (point(9, 46), {"class": None}),
        (point(9, 46), {}),
    )
    survey = read_survey(path, "class")
    assert len(survey.places) == 2
    assert survey.left_out == {"without a position": 1, "neither points nor polygons": 1, "without a class": 2}


def test_metres_that_are_called_degrees_and_unknown_systems_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SurveyError, match="no longitude and latitude"):
        read_survey(geojson(tmp_path / "a.geojson", (point(4e5, 5e6), {"class": "lake"})), "class")
    crs = {"type": "name", "properties": {"name": "EPSG:999999"}}
    with pytest.raises(SurveyError, match=r"points file .*999999"):
        read_survey(geojson(tmp_path / "b.geojson", (point(9, 46), {"class": "lake"}), crs=crs), "class")


@pytest.mark.parametrize(
    ("name", "code"),
    [("Spruce forest", 10), ("wet meadow", 30), ("Grassland", 30), ("Winter wheat", 40), ("village road", 50),
     ("river sand", 80), ("peat bog", 90), ("Moor", None), ("Woods", 10), ("cornfield", 40), ("iceberg", 70)],
)  # fmt: skip
def test_names_answer_to_words_that_the_model_knows(name: str, code: int | None) -> None:
    assert similar_code(name) == code


def test_a_proposed_legend_can_be_read_back_and_has_no_two_of_anything() -> None:
    legend = proposed_legend(("Lake", "lake", "Pine forest", "Spruce forest", "Zeta"), "mine")
    assert legend.codes == (1, 2, 3, 4, 5)
    assert type(legend).from_dict(legend.to_dict()) == legend
    assert len({entry.color for entry in legend}) == 5
    assert matched(legend, ("Zeta", "3"), Path("s")) == {"Zeta": 4, "3": 2}
    with pytest.raises(SurveyError, match="'Moor'"):
        matched(legend, ("Moor",), Path("s"))


GRID = ZoneGrid(32632, 500_000.0, 5_101_000.0, 10.0, 100, 100)


def lonlat(x: float, y: float, half: float = 0.0) -> shapely.Geometry:
    from pipeline.records.grid import unproject

    return unproject(shapely.box(x - half, y - half, x + half, y + half) if half else shapely.Point(x, y), 32632)


def test_each_pixel_is_labelled_once_and_the_rest_is_counted() -> None:
    inside = (500_015.0, 5_100_985.0)
    places = [
        LabelledPlace(lonlat(*inside), "a"),
        LabelledPlace(lonlat(inside[0] + 2, inside[1]), "a"),
        LabelledPlace(lonlat(500_505.0, 5_100_505.0, 20.0), "b"),
        LabelledPlace(lonlat(500_505.0, 5_100_505.0), "a"),
        LabelledPlace(lonlat(505_000.0, 5_100_505.0), "b"),
    ]
    survey = Survey(places)
    pixels = labelled_pixels(places, {"a": 0, "b": 1}, [GRID], [lonlat(500_500, 5_100_500, 495)], survey.left_out)
    assert (pixels[0].row, pixels[0].col, pixels[0].label) == (1, 1, 0)
    assert all(pixel.label == 1 for pixel in pixels[1:])
    assert len(pixels) in range(10, 26)
    assert survey.left_out == {
        "outside the run's region": 1,
        "in one pixel with another of the same class": 1,
        "in one pixel with another of a different class": 2,
    }
    windows = list(windows_of(pixels, 64))
    assert sorted(i for _, _, chosen in windows for i in chosen) == list(range(len(pixels)))
    for origin in ((0, 0), (-19, -5)):
        for _, window, chosen in windows_of(pixels, 64, [origin]):
            assert all(16 <= pixels[i].row - window.row < 48 and 16 <= pixels[i].col - window.col < 48 for i in chosen)
            # The groups of pixels that the map's tiles lie on.
            assert ((window.row + 16 - origin[0]) % 32, (window.col + 16 - origin[1]) % 32) == (0, 0)


def test_blocks_are_as_large_as_classes_allow() -> None:
    rng = np.random.default_rng(0)
    xy, labels = rng.uniform(0, 20_000, (400, 2)), rng.integers(0, 3, 400)
    side = block_side(xy, labels, 10.0)
    assert side == 5120
    assert block_side(xy / 100, labels, 10.0) < 100
    assert (np.unique(block_ids(xy, side)) == np.arange(block_ids(xy, side).max() + 1)).all()
