"""Regions: what is accepted, what is refused and how the refusal reads, zones, the automatic grid."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shapely.geometry import mapping

from pipeline.errors import RegionError
from pipeline.records.region import Region, read_region, safe_id


def box_feature(west: float, south: float, east: float, north: float, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "properties": properties, "geometry": mapping(shapely.box(west, south, east, north))}


def write(path: Path, document: Any) -> Path:
    file = path / "region.geojson"
    file.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return file


def collection(*features: dict[str, Any]) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(features)}


def test_features_become_subregions_with_their_ids_and_names(tmp_path: Path) -> None:
    region = read_region(
        write(tmp_path, collection(box_feature(0, 0, 1, 1, id="a", name="Alpha"), box_feature(1, 0, 2, 1, id="b")))
    )
    assert [(s.id, s.name) for s in region.subregions] == [("a", "Alpha"), ("b", "b")]
    assert region.geometry.equals(shapely.box(0, 0, 2, 1))
    assert region.notes == ()


def test_feature_geometry_and_collection_of_one_read_alike(tmp_path: Path) -> None:
    feature = box_feature(10, 50, 10.1, 50.1)
    regions = [read_region(write(tmp_path, d)) for d in (feature, feature["geometry"], collection(feature))]
    assert len({r.geometry.wkt for r in regions}) == 1
    assert len({tuple(s.id for s in r.subregions) for r in regions}) == 1


def test_a_third_coordinate_is_dropped(tmp_path: Path) -> None:
    ring = [[0, 0, 5], [1, 0, 5], [1, 1, 5], [0, 0, 5]]
    region = read_region(write(tmp_path, {"type": "Polygon", "coordinates": [ring]}))
    assert not region.geometry.has_z


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not GeoJSON"),
        ({"type": "FeatureCollection", "features": []}, "no features"),
        (collection({"type": "Feature", "properties": {"name": "Nowhere"}, "geometry": None}), "'Nowhere'"),
        ({"type": "Point", "coordinates": [0, 0]}, "is a Point"),
        ({"type": "Polygon", "coordinates": []}, "no geometry"),
        ({"type": "Polygon", "coordinates": [[[0, 0], ["x", 1], [1, 1], [0, 0]]]}, "malformed"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [NaN, 1], [1, 1], [0, 0]]]}', "NaN"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1e999, 1], [1, 1], [0, 0]]]}', "finite"),
        (box_feature(500000, 5000000, 510000, 5010000), "projected metres"),
        (box_feature(0, 0, 360, 1), "antimeridian"),
        (box_feature(-179.5, 0, 179.5, 1), "antimeridian"),
        (box_feature(0, 83, 1, 85), "UTM"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [2, 0], [0, 0]]]}, "no area"),
        (collection(box_feature(0, 0, 1, 1, id=7), box_feature(1, 0, 2, 1, id=7)), "features 1 and 2"),
        ({**box_feature(0, 0, 1, 1), "crs": {"type": "name", "properties": {"name": "EPSG:27700"}}}, "EPSG:27700"),
    ],
)
def test_what_cannot_be_mapped_is_refused_with_a_reason(tmp_path: Path, document: Any, words: str) -> None:
    with pytest.raises(RegionError, match=words) as caught:
        read_region(write(tmp_path, document))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RegionError, match=r"absent\.geojson"):
        read_region(tmp_path / "absent.geojson")


def test_the_old_crs_member_is_accepted_when_it_says_lonlat(tmp_path: Path) -> None:
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}
    assert read_region(write(tmp_path, {**box_feature(0, 0, 0.1, 0.1), "crs": crs})).subregions


def test_an_invalid_polygon_is_repaired_and_noted(tmp_path: Path) -> None:
    bowtie = {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]]}
    region = read_region(write(tmp_path, bowtie))
    assert region.geometry.is_valid
    assert region.geometry.area == pytest.approx(0.5)
    assert "repaired" in region.notes[0]


def test_unsafe_ids_are_made_safe_and_stay_unique(tmp_path: Path) -> None:
    region = read_region(
        write(
            tmp_path,
            collection(
                box_feature(0, 0, 1, 1, id="../../etc/passwd", name="<b>x</b>\n\x07y"),
                box_feature(1, 0, 2, 1, id="Åre kommun"),
                box_feature(2, 0, 3, 1, id="are-kommun"),
                box_feature(3, 0, 4, 1, id="日本"),
                box_feature(4, 0, 5, 1),
            ),
        )
    )
    ids = [s.id for s in region.subregions]
    assert ids == ["etc-passwd", "Are-kommun", "are-kommun-2", "region-4", "region-5"]
    assert region.subregions[0].name == "<b>x</b> y"
    assert len(region.notes) == 4, region.notes


@given(st.text(max_size=300))
@settings(max_examples=100)
def test_a_safe_id_never_leaves_its_folder(text: str) -> None:
    identifier = safe_id(text)
    assert set(identifier) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
    assert not identifier.startswith(".")
    assert len(identifier) <= 100


def test_ids_come_from_the_configured_field_or_the_feature_itself(tmp_path: Path) -> None:
    first, second = box_feature(0, 0, 1, 1, code=12, label="Twelve"), {**box_feature(1, 0, 2, 1), "id": "top"}
    region = read_region(write(tmp_path, collection(first, second)), id_field="code", name_field="label")
    assert [(s.id, s.name) for s in region.subregions] == [("12", "Twelve"), ("top", "top")]


def test_two_zones_partition_the_region(tmp_path: Path) -> None:
    region = read_region(write(tmp_path, box_feature(5.8, 50, 6.3, 50.2)))
    assert region.utm_epsgs() == (32631, 32632)
    west, east = (region.zone_geometry(e) for e in region.utm_epsgs())
    assert west.bounds[2] == 6.0 == east.bounds[0]
    assert west.area + east.area == pytest.approx(region.geometry.area)


def test_touching_a_zone_border_does_not_open_the_zone(tmp_path: Path) -> None:
    assert read_region(write(tmp_path, box_feature(5.8, 50, 6.0, 50.2))).utm_epsgs() == (32631,)
    assert read_region(write(tmp_path, box_feature(179.8, 1, 180.0, 1.2))).utm_epsgs() == (32660,)


def test_the_equator_is_crossed_in_one_zone(tmp_path: Path) -> None:
    region = read_region(write(tmp_path, box_feature(0.1, -1.0, 0.3, 0.4)), grid_km=200)
    assert region.utm_epsgs() == (32731,)
    assert region.zone_geometry(32731).equals(region.geometry)


def test_a_region_split_at_the_antimeridian_has_its_two_zones(tmp_path: Path) -> None:
    both = shapely.MultiPolygon([shapely.box(179.9, -17, 180, -16.9), shapely.box(-180, -17, -179.9, -16.9)])
    region = read_region(write(tmp_path, mapping(both)))
    assert region.utm_epsgs() == (32701, 32760)
    assert sum(s.geometry.area for s in region.subregions) == pytest.approx(region.geometry.area, rel=1e-4)
    assert all(-180 <= s.geometry.bounds[0] <= s.geometry.bounds[2] <= 180 for s in region.subregions)
    assert len(region.subregions) < 60
    with pytest.raises(RegionError, match="32630"):
        region.zone_geometry(32630)


@given(west=st.floats(-179, 170), south=st.floats(-79, 80), width=st.floats(0.05, 9), height=st.floats(0.05, 3))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_zones_always_partition_the_region(west: float, south: float, width: float, height: float) -> None:
    region = Region(shapely.box(west, south, west + width, min(south + height, 84)), ())
    parts = [region.zone_geometry(e) for e in region.utm_epsgs()]
    assert sum(p.area for p in parts) == pytest.approx(region.geometry.area, rel=1e-9)
    for i, a in enumerate(parts):
        for b in parts[i + 1 :]:
            assert a.intersection(b).area == 0.0


def test_the_automatic_grid_covers_the_region_once(tmp_path: Path) -> None:
    region = read_region(write(tmp_path, box_feature(3.0, 50.0, 3.3, 50.2)), grid_km=5)
    assert region.subregions[0].name == "Cell A1"
    assert {s.id for s in region.subregions} >= {"cell-A1", "cell-B1", "cell-A2"}
    total = sum(s.geometry.area for s in region.subregions)
    assert total == pytest.approx(region.geometry.area, rel=1e-4)
    first = region.subregions[0].geometry.centroid
    assert first.x < 3.05
    assert first.y > 50.15


def test_a_small_region_is_one_cell(tmp_path: Path) -> None:
    region = read_region(write(tmp_path, box_feature(3.0, 50.0, 3.01, 50.01)), grid_km=5)
    assert [s.name for s in region.subregions] == ["Cell A1"]
    assert region.subregions[0].geometry.equals_exact(region.geometry, 1e-9, normalize=True)


def test_a_grid_over_two_zones_still_covers_the_region(tmp_path: Path) -> None:
    region = read_region(write(tmp_path, box_feature(5.8, 50.0, 6.2, 50.1)), grid_km=5)
    assert sum(s.geometry.area for s in region.subregions) == pytest.approx(region.geometry.area, rel=1e-4)


@pytest.mark.parametrize("cells", [3, 1])
def test_too_many_cells_are_refused(tmp_path: Path, cells: int) -> None:
    with pytest.raises(RegionError, match="grid_km"):
        read_region(write(tmp_path, box_feature(0, 50, 3, 52)), grid_km=1, max_regions=cells)


def test_too_many_features_are_refused(tmp_path: Path) -> None:
    features = [box_feature(i, 0, i + 1, 1, id=i) for i in range(4)]
    with pytest.raises(RegionError, match="at most 3"):
        read_region(write(tmp_path, collection(*features)), max_regions=3)
