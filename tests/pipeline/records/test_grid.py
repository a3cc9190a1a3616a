"""The output grid: snapping, curved edges, windows and masks."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import RegionError
from pipeline.records.grid import (
    geobox,
    project,
    region_mask,
    unproject,
    window_bounds,
    zone_grid,
)
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.windows import intersection, slices

LONLAT_BOX = shapely.box(11.0, 46.0, 11.05, 46.03)


@settings(max_examples=100, deadline=None)
@given(
    west=st.floats(6.1, 11.0),
    south=st.floats(-70.0, 75.0),
    width=st.floats(0.001, 0.9),
    height=st.floats(0.001, 0.9),
    resolution_m=st.sampled_from([10.0, 20.0, 60.0]),
)
def test_grid_lies_on_multiples_of_the_resolution_and_covers_the_area(
    west: float, south: float, width: float, height: float, resolution_m: float
) -> None:
    area = shapely.box(west, south, west + width, south + height)
    epsg = 32632 if south >= 0 else 32732
    grid = zone_grid(area, epsg, resolution_m)
    assert grid.left % resolution_m == 0
    assert grid.top % resolution_m == 0
    whole = shapely.box(*window_bounds(grid, Window(0, 0, grid.height, grid.width)))
    tolerance_m = resolution_m * 1e-3
    assert shapely.covers(whole.buffer(tolerance_m), project(area, epsg))
    # and not a row or column more than that takes
    bounds = project(area, epsg).bounds
    assert abs(bounds[0] - grid.left) <= resolution_m
    assert abs(grid.top - bounds[3]) <= resolution_m
    assert grid.width * resolution_m - (bounds[2] - bounds[0]) < 2 * resolution_m + tolerance_m


def test_ten_metre_grid_is_the_grid_of_a_sentinel2_granule() -> None:
    # Granule 32TPS starts at 600000 E, 5200020 N (Sentinel-2 tiling grid); 10 m pixels lie at multiples of 10 from it.
    grid = zone_grid(LONLAT_BOX, 32632, 10.0)
    assert (grid.left - 600_000.0) % 10.0 == 0
    assert (5_200_020.0 - grid.top) % 10.0 == 0


def test_edges_that_curve_in_utm_are_covered() -> None:
    # The 46th parallel bows: between two corners it runs south of the chord, so corners alone would cut it off.
    area = shapely.box(6.5, 46.0, 11.5, 46.5)
    corners = shapely.transform(
        area, lambda xy: np.array([shapely.get_coordinates(project(shapely.Point(p), 32632))[0] for p in xy])
    )
    grid = zone_grid(area, 32632, 10.0)
    bottom = grid.top - grid.height * 10.0
    assert corners.bounds[1] - bottom > 1000.0
    middle = project(shapely.Point(9.0, 46.0), 32632)
    assert bottom <= middle.y <= bottom + 10.0


def test_area_that_fits_the_pixels_gets_no_extra_pixels_from_rounding() -> None:
    area = unproject(shapely.box(600_000.0, 5_100_000.0, 601_000.0, 5_100_500.0), 32632, max_segment_m=50.0)
    assert zone_grid(area, 32632, 10.0) == ZoneGrid(32632, 600_000.0, 5_100_500.0, 10.0, 50, 100)


def test_a_point_sized_area_still_gets_a_pixel() -> None:
    grid = zone_grid(shapely.Point(9.0, 46.0).buffer(1e-9), 32632, 10.0)
    assert (grid.height, grid.width) >= (1, 1)


def test_empty_area_is_refused() -> None:
    with pytest.raises(RegionError, match="EPSG:32632"):
        zone_grid(shapely.Polygon(), 32632, 10.0)


def test_unknown_zone_is_refused() -> None:
    with pytest.raises(RegionError, match="999999"):
        zone_grid(LONLAT_BOX, 999_999, 10.0)


def test_geobox_of_a_window_lies_on_the_grid_of_the_whole() -> None:
    grid = ZoneGrid(32632, 600_000.0, 5_100_000.0, 10.0, 40, 30)
    part = geobox(grid, Window(-5, 7, 20, 10))  # the halo of a tile leaves the grid
    assert part.shape == (20, 10)
    assert part.transform == geobox(grid).transform @ part.transform.translation(7, -5)
    assert part.crs.epsg == 32632


@settings(max_examples=100, deadline=None)
@given(
    row=st.integers(-30, 60),
    col=st.integers(-30, 60),
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    seed=st.integers(0, 9),
)
def test_mask_of_a_window_is_the_window_of_the_mask(row: int, col: int, height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ring = shapely.Point(11.01, 46.01).buffer(0.004).exterior.coords[:: 1 + seed % 3]
    area = shapely.make_valid(
        shapely.Polygon(ring).difference(shapely.Point(*rng.uniform([11.006, 46.006], [11.014, 46.014])).buffer(1e-3))
    )
    grid = zone_grid(area, 32632, 10.0)
    window = Window(row, col, height, width)
    frame = Window(-30, -30, grid.height + 200, grid.width + 200)
    whole = region_mask(area, grid, frame)
    np.testing.assert_array_equal(region_mask(area, grid, window), whole[slices(window, frame)])


def test_mask_holds_exactly_the_pixels_whose_centre_is_inside() -> None:
    area = shapely.Point(11.01, 46.01).buffer(0.002)
    grid = zone_grid(area, 32632, 10.0)
    rows, cols = np.mgrid[0 : grid.height, 0 : grid.width]
    x, y = grid.left + (cols + 0.5) * 10.0, grid.top - (rows + 0.5) * 10.0
    inside = shapely.contains_xy(project(area, 32632), x, y)
    np.testing.assert_array_equal(region_mask(area, grid), inside)


def test_neighbouring_areas_share_no_pixel_and_leave_no_gap() -> None:
    west, east = shapely.box(11.0, 46.0, 11.011, 46.01), shapely.box(11.011, 46.0, 11.02, 46.01)
    both = shapely.union(west, east)
    grid = zone_grid(both, 32632, 10.0)
    masks = region_mask(west, grid).astype(int) + region_mask(east, grid)
    np.testing.assert_array_equal(masks, region_mask(both, grid))


def test_mask_far_from_the_area_is_empty() -> None:
    grid = zone_grid(LONLAT_BOX, 32632, 10.0)
    assert not region_mask(LONLAT_BOX, grid, Window(100_000, 100_000, 16, 16)).any()


def test_windows_intersect_in_their_common_pixels() -> None:
    assert intersection(Window(0, 0, 10, 10), Window(5, -3, 10, 10)) == Window(5, 0, 5, 7)
    assert intersection(Window(0, 0, 10, 10), Window(10, 0, 5, 5)) is None
