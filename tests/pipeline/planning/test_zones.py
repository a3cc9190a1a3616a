"""Which zone maps which ground: the grid's, or that of the scenes; never two, never none."""

from __future__ import annotations

import random

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.planning.blocks import build_plan
from pipeline.planning.zones import zone_areas
from pipeline.records.grid import project, region_mask
from pipeline.records.scene import Scene
from tests.pipeline.small_plans import LEGEND, region_of, run_config, scene_over


def scene(epsg: int, *bounds: float, name: str | None = None) -> Scene:
    return scene_over(name or f"s{epsg}-{bounds}", shapely.box(*bounds), epsg=epsg)


def codes(area: shapely.Geometry, *scenes: Scene) -> list[int]:
    return list(zone_areas(region_of(area), scenes))


NEAR_12_E = shapely.box(11.9, 46.0, 12.1, 46.1)


def test_scenes_of_both_zones_leave_the_border_where_it_is() -> None:
    areas = zone_areas(region_of(NEAR_12_E), [scene(32632, 11, 45, 12.3, 47), scene(32633, 11.7, 45, 13, 47)])
    assert list(areas) == [32632, 32633]
    assert areas[32632].bounds[2] == 12.0 == areas[32633].bounds[0]


def test_granules_that_reach_beyond_their_zone_map_it_where_no_other_is_there() -> None:
    assert codes(NEAR_12_E, scene(32632, 11, 45, 12.3, 47)) == [32632]
    assert codes(NEAR_12_E, scene(32633, 11.7, 45, 13, 47)) == [32633]
    assert codes(shapely.box(12.05, 46, 12.1, 46.1), scene(32632, 11, 45, 12.3, 47)) == [32632]


def test_a_sliver_without_granules_of_its_zone_does_not_move_the_border() -> None:
    """Swath edges wander from month to month; the map's borders must not."""
    own = scene(32633, 12.02, 45, 13, 47)
    areas = zone_areas(region_of(NEAR_12_E), [scene(32632, 11, 45, 12.3, 47), own])
    assert areas[32633].bounds[0] == 12.0
    mostly_missing = scene(32633, 12.08, 45, 13, 47)
    assert codes(NEAR_12_E, scene(32632, 11, 45, 12.3, 47), mostly_missing) == [32632]


def test_ground_that_no_scene_covers_keeps_its_zone() -> None:
    assert codes(NEAR_12_E, scene(32632, 11, 45, 12, 47)) == [32632, 32633]


def test_scenes_of_far_zones_and_other_projections_have_no_say() -> None:
    assert codes(NEAR_12_E, scene(32640, 11, 45, 13, 47)) == [32632, 32633]
    assert codes(NEAR_12_E, scene(3035, 11, 45, 13, 47)) == [32632, 32633]


def test_south_west_norway_is_one_zone_by_the_grid_and_two_where_an_archive_has_strips() -> None:
    coast = shapely.box(4.0, 60.0, 8.0, 60.5)
    assert codes(coast, scene(32632, 2, 59, 9, 61)) == [32632]
    assert codes(coast, scene(32631, 2, 59, 6.1, 61), scene(32632, 5.9, 59, 9, 61)) == [32631, 32632]


def test_svalbard_has_no_even_zones() -> None:
    svalbard = shapely.box(8.0, 78.0, 34.0, 79.0)
    scenes = [scene(epsg, 0, 77, 42, 80) for epsg in (32631, 32633, 32635, 32637)]
    assert codes(svalbard, *scenes) == [32631, 32633, 32635, 32637]


@pytest.mark.parametrize(
    ("south", "north", "epsgs", "expected"),
    [
        (-0.05, 0.03, (32631, 32731), 32731),
        (-0.03, 0.05, (32631, 32731), 32631),
        (-0.05, 0.03, (32631,), 32631),
        (-0.03, 0.05, (32731,), 32731),
        (-0.05, -0.01, (32631,), 32631),
        (0.01, 0.05, (32731,), 32731),
        (-0.05, 0.03, (), 32731),
    ],
)
def test_a_zone_is_one_across_the_equator(south: float, north: float, epsgs: tuple[int, ...], expected: int) -> None:
    far = scene(32631, 3, 5, 4, 6)
    assert codes(shapely.box(3.0, south, 3.1, north), far, *(scene(e, 2, -1, 4, 1) for e in epsgs)) == [expected]


ACROSS_180 = shapely.MultiPolygon([shapely.box(179.9, -17, 180, -16.9), shapely.box(-180, -17, -179.9, -16.9)])
BOTH_SIDES = shapely.MultiPolygon([shapely.box(179, -18, 180, -16), shapely.box(-180, -18, -179, -16)])


def test_zones_1_and_60_are_neighbours() -> None:
    over = [scene_over(f"s{epsg}", BOTH_SIDES, epsg=epsg) for epsg in (32701, 32760)]
    assert codes(ACROSS_180, *over) == [32701, 32760]
    assert codes(ACROSS_180, over[0]) == [32701]
    assert codes(ACROSS_180, over[1]) == [32760]


@pytest.mark.parametrize("epsg", [32701, 32760])
def test_one_map_may_hold_both_sides_of_the_antimeridian(epsg: int) -> None:
    plan = build_plan(
        run_config(tiling={"tile_px": 256, "overlap_px": 64, "block_px": 512}), region_of(ACROSS_180),
        [scene_over("s", BOTH_SIDES, epsg=epsg)], model_fingerprint="w", legend=LEGEND, software={},
    )  # fmt: skip
    (zone,) = plan.zones
    # 0.2 by 0.1 degrees at 17 degrees south
    assert 2125 < zone.grid.width < 2200
    assert 1100 < zone.grid.height < 1180
    mask = region_mask(zone_areas(region_of(ACROSS_180), plan.scenes)[epsg], zone.grid)
    assert mask.sum() / mask.size > 0.94
    changes = np.abs(np.diff(mask.astype(np.int8), axis=1)).sum(axis=1)
    assert changes.max() <= 2, "a gap at the antimeridian"


def boxes(low: float, high: float) -> st.SearchStrategy[tuple[float, float]]:
    return st.tuples(st.floats(low, high), st.floats(0.02, 8.0))


@given(
    ground=st.lists(st.tuples(boxes(-3, 38), boxes(54, 80)), min_size=1, max_size=3),
    footprints=st.lists(st.tuples(st.integers(29, 38), boxes(-3, 38), boxes(50, 82)), max_size=8),
    shuffle=st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_a_region_is_divided_without_overlap_or_loss_whatever_the_scenes_are(
    ground: list[tuple[tuple[float, float], tuple[float, float]]],
    footprints: list[tuple[int, tuple[float, float], tuple[float, float]]],
    shuffle: random.Random,
) -> None:
    region = region_of(shapely.union_all([shapely.box(x, y, x + w, min(y + h, 84.0)) for (x, w), (y, h) in ground]))
    scenes = [
        scene(32600 + zone, x, y, x + w, min(y + h, 89.0), name=f"s{i}")
        for i, (zone, (x, w), (y, h)) in enumerate(footprints)
    ]
    areas = zone_areas(region, scenes)
    whole = region.geometry
    assert sum(area.area for area in areas.values()) == pytest.approx(whole.area, rel=1e-9)
    assert shapely.union_all(list(areas.values())).symmetric_difference(whole).area <= 1e-9 * whole.area
    parts = list(areas.values())
    for i, a in enumerate(parts):
        assert a.is_valid
        for b in parts[i + 1 :]:
            assert a.intersection(b).area <= 1e-12 * whole.area
    shuffled = list(scenes)
    shuffle.shuffle(shuffled)
    again = zone_areas(region, shuffled)
    assert list(again) == list(areas)
    assert all(again[epsg].equals_exact(areas[epsg], 0.0) for epsg in areas)
    for epsg, area in areas.items():
        assert all(map(float("inf").__gt__, map(abs, project(area, epsg).bounds)))
