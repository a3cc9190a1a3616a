"""The land is a pure function of seed and absolute position."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from pipeline.simulation import DEMO_SPEC, simulate_chip
from pipeline.simulation.chips import COMPOSITE_SHARE
from pipeline.simulation.noise import fractal_noise, smooth_noise, voronoi
from pipeline.simulation.scene import Frame
from spex_core.legend import Legend

CODES = set(Legend.from_yaml().codes)
WORLD = DEMO_SPEC.world
LEFT, TOP = 643_000, 5_147_000


def test_the_same_seed_gives_the_same_chip_and_another_seed_another() -> None:
    first, second, other = simulate_chip(3, 64), simulate_chip(3, 64), simulate_chip(4, 64)
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert not np.array_equal(first[0], other[0])


def test_a_chip_has_the_promised_shape_type_and_codes() -> None:
    assert 0 < COMPOSITE_SHARE < 1
    for seed in range(8):
        reflectance, codes = simulate_chip(seed, 96)
        assert reflectance.shape == (10, 96, 96)
        assert reflectance.dtype == np.float32
        assert codes.dtype == np.uint8
        assert set(np.unique(codes)) <= CODES
        assert np.isfinite(reflectance).all()
        assert reflectance.min() > -0.1
        assert reflectance.max() < 1.4


@pytest.mark.parametrize("size", [0, -2, 63])
def test_an_odd_or_empty_chip_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="even and positive"):
        simulate_chip(1, size)


def test_every_class_occurs_over_chips_and_none_rules() -> None:
    share = np.zeros(256)
    for seed in range(60):
        share += np.bincount(simulate_chip(seed, 128)[1].ravel(), minlength=256) / 128**2 / 60
    for code in CODES:
        assert 0.01 < share[code] < 0.45, f"class {code} has share {share[code]:.3f}"


def test_the_demo_region_holds_every_class() -> None:
    corners = ((640_000, 5_150_000), (645_000, 5_146_000), (656_600, 5_146_000))
    seen = {int(code) for c in corners for code in np.unique(WORLD.classes(Frame(32632, *c, 256, 256)))}
    assert seen == CODES


@settings(max_examples=12, deadline=None)
@given(row=st.integers(0, 40), col=st.integers(0, 40), height=st.integers(2, 24), width=st.integers(2, 24))
def test_a_window_is_a_cut_of_any_larger_window(row: int, col: int, height: int, width: int) -> None:
    large = WORLD.cover(Frame(32632, LEFT, TOP, 64, 64))
    small = WORLD.cover(Frame(32632, LEFT + 10 * col, TOP - 10 * row, height, width))
    cut = np.s_[row : row + height, col : col + width]
    for name in (
        "code",
        "patch",
        "fine",
        "clumps",
        "mottle",
        "broad",
        "rows",
        "margin_m",
        "street",
        "depth",
        "height_m",
    ):
        assert np.array_equal(getattr(large, name)[cut], getattr(small, name)), name


def test_scattered_positions_agree_with_the_grid() -> None:
    x, y = Frame(32632, LEFT, TOP, 20, 30).positions()
    every_x, every_y = (np.array(a) for a in np.broadcast_arrays(x, y))
    assert np.array_equal(smooth_noise(5, x, y, 300.0), smooth_noise(5, every_x, every_y, 300.0))
    grid, scattered = voronoi(5, x, y, 120.0), voronoi(5, every_x, every_y, 120.0)
    assert np.array_equal(grid.key, scattered.key)


def test_noise_has_zero_mean_and_unit_deviation() -> None:
    x, y = Frame(32632, LEFT, TOP, 256, 256).positions()
    values = np.concatenate([fractal_noise(seed, x, y, 60.0, 3).ravel() for seed in range(4)])
    assert abs(values.mean()) < 0.05
    assert abs(values.std() - 1.0) < 0.1


def test_the_land_goes_on_across_a_zone_border() -> None:
    # 12° E lies between zones 32 and 33; the same place is drawn from both.
    x33, y33 = Transformer.from_crs(32632, 32633, always_xy=True).transform(730_000.0, 5_147_000.0)
    to_32 = Transformer.from_crs(32633, 32632, always_xy=True)
    left, top = round(x33 / 20) * 20, round(y33 / 20) * 20
    in33 = WORLD.classes(Frame(32633, left, top, 64, 64))
    xs, ys = Frame(32633, left, top, 64, 64).positions()
    east, north = to_32.transform(*(np.array(a) for a in np.broadcast_arrays(xs, ys)))
    corner = int(east.min() // 20) * 20 - 40, int(north.max() // 20) * 20 + 60
    in32 = WORLD.classes(Frame(32632, *corner, 96, 96))
    rows = ((corner[1] - north) // 10).astype(int)
    cols = ((east - corner[0]) // 10).astype(int)
    assert (in32[rows, cols] == in33).mean() > 0.9
