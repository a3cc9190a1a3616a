"""UTM zones as the grid of Sentinel-2 has them: every place in one, Norway and Svalbard as they are."""

from __future__ import annotations

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.records.utm import northing_shift_m, polygonal, zone_of, zone_parts


def zone_at(lon: float, lat: float) -> int:
    """The textbook rule, place by place."""
    if 56.0 <= lat < 64.0 and 3.0 <= lon < 12.0:
        return 32
    if 72.0 <= lat <= 84.0 and 0.0 <= lon < 42.0:
        return next(zone for edge, zone in ((9, 31), (21, 33), (33, 35), (42, 37)) if lon < edge)
    return min(int((lon + 180.0) // 6.0) + 1, 60)


@pytest.mark.parametrize(
    ("place", "lon", "lat", "zone"),
    [
        ("Bergen", 5.32, 60.39, 32),
        ("Shetland", -1.15, 60.3, 30),
        ("Trondheim", 10.4, 63.43, 32),
        ("Aalesund", 6.15, 62.47, 32),
        ("a ship at 2.5 E", 2.5, 60.0, 31),
        ("a ship north of 32V", 4.0, 65.0, 31),
        ("Esbjerg", 5.5, 55.4, 31),
        ("Longyearbyen", 15.6, 78.2, 33),
        ("west of Svalbard", 7.0, 78.0, 31),
        ("Kvitoya", 32.5, 80.1, 35),
        ("Franz Josef Land", 35.0, 81.0, 37),
        ("Suva", 178.44, -18.14, 60),
        ("Taveuni", -179.98, -16.8, 1),
    ],
)
def test_places_lie_in_the_zone_of_their_granules(place: str, lon: float, lat: float, zone: int) -> None:
    parts = zone_parts(shapely.Point(lon, lat).buffer(0.005))
    assert [part.zone for part in parts] == [zone], place


@given(
    west=st.one_of(st.floats(-180, 175), st.floats(-2, 40)),
    south=st.one_of(st.floats(-80, 83), st.floats(54, 83)),
    width=st.floats(0.01, 20),
    height=st.floats(0.01, 12),
    slant=st.floats(-0.4, 0.4),
)
@settings(max_examples=60, deadline=None)
def test_parts_are_the_ground_once_and_each_lies_in_its_zone(
    west: float, south: float, width: float, height: float, slant: float
) -> None:
    east, north = min(west + width, 180.0), min(south + height, 84.0)
    ground = shapely.Polygon(
        [(west, south), (east, south + slant * (north - south) / 2), (east, north), (west, north - abs(slant) * 1e-3)]
    )
    if not ground.is_valid or ground.area < 1e-6:
        ground = shapely.box(west, south, east, north)
    parts = zone_parts(ground)
    assert sum(part.geometry.area for part in parts) == pytest.approx(ground.area, rel=1e-9)
    for i, a in enumerate(parts):
        for b in parts[i + 1 :]:
            assert a.geometry.intersection(b.geometry).area <= 1e-12 * ground.area
        for inner in shapely.get_parts(a.geometry):
            at = inner.representative_point()
            assert zone_at(at.x, at.y) == a.zone


@given(zone=st.integers(1, 60), other=st.integers(1, 60))
def test_the_hemispheres_of_a_zone_differ_by_a_false_northing(zone: int, other: int) -> None:
    assert zone_of(32600 + zone) == zone_of(32700 + zone) == zone
    assert northing_shift_m(32600 + zone, 32700 + zone) == 10_000_000.0
    assert northing_shift_m(32700 + zone, 32600 + zone) == -10_000_000.0
    assert northing_shift_m(32600 + zone, 32600 + zone) == 0.0
    if other != zone:
        assert northing_shift_m(32600 + zone, 32700 + other) is None
        assert northing_shift_m(32600 + zone, 32600 + other) is None


def test_codes_of_other_projections_have_no_zone() -> None:
    assert [zone_of(epsg) for epsg in (4326, 3857, 32600, 32661, 32700, 32761, 25832, 2154)] == [None] * 8
    assert northing_shift_m(3035, 3035) == 0.0
    assert northing_shift_m(3035, 32632) is None


def test_only_polygons_of_a_collection_are_ground() -> None:
    mixed = shapely.GeometryCollection(
        [shapely.box(0, 0, 1, 1), shapely.Point(3, 3), shapely.LineString([(0, 0), (2, 2)])]
    )
    assert polygonal(mixed).equals(shapely.box(0, 0, 1, 1))
    assert polygonal(shapely.Point(1, 1)).is_empty
