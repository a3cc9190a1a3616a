"""Areas as people write them: heights at some positions, empty parts, longitudes beyond 180°, old encodings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import shapely

from pipeline.errors import RegionError
from pipeline.records.region import read_region
from tests.pipeline.records.region_files import IDS, feature, vector_file

RING = [[10.0, 46.0], [10.01, 46.0], [10.01, 46.01], [10.0, 46.01], [10.0, 46.0]]
SQUARE = {"type": "Polygon", "coordinates": [RING]}
POINT = {"type": "Point", "coordinates": [10.0, 46.0]}


def written(folder: Path, geometry: Any, *more: Any) -> Path:
    features = [
        {"type": "Feature", "id": f"f{n}", "properties": {"rank": n}, "geometry": g}
        for n, g in enumerate((geometry, *more))
    ]
    path = folder / "region.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def collected(*geometries: Any) -> dict[str, Any]:
    return {"type": "GeometryCollection", "geometries": list(geometries)}


@pytest.mark.parametrize(
    "geometry",
    [
        {"type": "Polygon", "coordinates": [[[*xy, 512.5] for xy in RING]]},
        {"type": "Polygon", "coordinates": [[[*xy, None] for xy in RING]]},
        {"type": "Polygon", "coordinates": [[[*xy, 5.0, 1.0] for xy in RING]]},
        {"type": "Polygon", "coordinates": [[xy + [5.0] * (n % 2) for n, xy in enumerate(RING)]]},
        {"type": "Polygon", "coordinates": [RING, []]},
        {"type": "MultiPolygon", "coordinates": [[RING], []]},
        {"type": "MultiPolygon", "coordinates": [[], [RING]]},
        collected(SQUARE, POINT),
        collected(POINT, collected(collected(SQUARE))),
        collected({"type": "Polygon", "coordinates": []}, SQUARE),
    ],
)
def test_it_is_the_same_ground_however_it_is_written(geometry: Any, tmp_path: Path) -> None:
    assert read_region(written(tmp_path, geometry)).geometry.equals(shapely.box(10.0, 46.0, 10.01, 46.01))


@pytest.mark.parametrize("nothing", [None, {"type": "Polygon", "coordinates": []}, collected()])
def test_an_empty_geometry_is_left_out_as_a_null_one_is(nothing: Any, tmp_path: Path) -> None:
    region = read_region(written(tmp_path, SQUARE, nothing))
    assert region.notes == ("left out, without a geometry: feature 2 ('f1')",)


@pytest.mark.parametrize("coordinates", [[[10.0, 46.0]], [[[10.0], [11.0], [10.0]]], [["a", "b"]], "x", None, [[None]]])
def test_positions_that_are_none_are_refused(coordinates: Any, tmp_path: Path) -> None:
    with pytest.raises(RegionError, match="malformed"):
        read_region(written(tmp_path, {"type": "Polygon", "coordinates": coordinates}))


@pytest.mark.parametrize(
    ("west", "east", "parts"),
    [
        (179.9, 180.1, [(-180.0, -179.9), (179.9, 180.0)]),
        (-180.1, -179.9, [(-180.0, -179.9), (179.9, 180.0)]),
        (350.0, 350.2, [(-10.0, -9.8)]),
        (-190.0, -189.8, [(170.0, 170.2)]),
    ],
)
def test_longitudes_beyond_180_are_split(
    west: float, east: float, parts: list[tuple[float, float]], tmp_path: Path
) -> None:
    region = read_region(written(tmp_path, shapely.box(west, 10.0, east, 10.1).__geo_interface__), grid_km=50.0)
    found = sorted((b[0], b[2]) for b in shapely.bounds(shapely.get_parts(region.geometry)).tolist())
    assert found == [pytest.approx(part) for part in parts]
    assert "split at the antimeridian" in region.notes[0]


def test_latitude_first_is_told(tmp_path: Path) -> None:
    with pytest.raises(RegionError, match="seem to be swapped"):
        read_region(written(tmp_path, shapely.box(-35.0, 140.0, -34.9, 140.1).__geo_interface__))


def test_a_condition_may_name_the_id_of_a_feature(tmp_path: Path) -> None:
    other = shapely.box(20.0, 46.0, 20.01, 46.01)
    region = read_region(written(tmp_path, SQUARE, other.__geo_interface__), where="id = 'f1'")
    assert region.geometry.equals(other)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"%PDF-1.4\n\xff", "format that is not read.*ogr2ogr"),
        (b"II*\0\0\0", "format that is not read"),
        (b"POLYGON ((0 0, 1 0, 1 1, 0 0))", "format that is not read"),
        ('{"type": "Feature", "properties": {"name": "Zürich"}}'.encode("latin-1"), "old encoding.*iconv"),
        ("<kml/>".encode("utf-16"), "XML in UTF-16"),
        (b'{"type": "Feature",}', "is not JSON"),
    ],
)
def test_another_content_is_told_by_what_it_is(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "region.geojson"
    path.write_bytes(content)
    with pytest.raises(RegionError, match=words):
        read_region(path)


@pytest.mark.parametrize(("encoding", "named"), [("UTF-8", False), ("ISO-8859-1", False), ("UTF-8", True)])
def test_names_in_a_shapefile_keep_their_letters(tmp_path: Path, encoding: str, named: bool) -> None:
    """Written by tools that leave out the .cpg, in UTF-8 or Latin 1."""
    path = vector_file(tmp_path / "r.shp", columns={"id": IDS, "name": ("aaaaaaaaa", "Beta")})
    dbf = path.with_suffix(".dbf")
    letters = "Žďár".encode() if encoding == "UTF-8" else "Besançon".encode(encoding)
    data = bytearray(dbf.read_bytes().replace(b"aaaaaaaaa", letters.ljust(9)))
    data[29] = 0  # no language driver either
    dbf.write_bytes(data)
    path.with_suffix(".cpg").unlink(missing_ok=True)
    if named:
        path.with_suffix(".cpg").write_text(encoding)
    region = read_region(path)
    assert region.subregions[0].name == ("Žďár" if encoding == "UTF-8" else "Besançon")


def test_a_longitude_that_rounding_took_beyond_the_earth_makes_no_second_zone(tmp_path: Path) -> None:
    path = tmp_path / "r.geojson"
    path.write_text(json.dumps(feature(shapely.box(179.9, 10.0, 180.0000000001, 10.1))))
    region = read_region(path)
    assert region.utm_epsgs() == (32660,)
    assert shapely.bounds(region.geometry)[2] <= 180.0
