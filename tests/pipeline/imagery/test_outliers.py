"""Dates that do not fit the others: properties that hold whatever the pixels are."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.imagery.outliers import outlying

reflectance = st.one_of(st.floats(0, 1.25, width=32), st.just(float("nan")))


@st.composite
def dates(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blue, red and near infrared of up to six dates of a few pixels, some not observed."""
    shape = (draw(st.integers(1, 6)), draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    made = [draw(arrays.arrays(np.float32, shape, elements=reflectance)) for _ in range(3)]
    unseen = draw(arrays.arrays(bool, shape))
    for band in made:
        band[unseen] = np.nan
    return made[0], made[1], made[2]


@settings(deadline=None)
@given(dates())
def test_no_pixel_loses_all_its_dates_and_none_that_it_had_not(bands: tuple[np.ndarray, ...]) -> None:
    blue, red, infrared = bands
    found = outlying(blue, red, infrared)
    assert found.dtype == bool
    assert found.shape == blue.shape
    known = np.isfinite(blue) & np.isfinite(red) & np.isfinite(infrared)
    assert not (found & ~known).any()
    assert ((known & ~found).any(axis=0) == known.any(axis=0)).all()


@settings(deadline=None)
@given(dates(), st.randoms(use_true_random=False))
def test_the_order_of_dates_does_not_matter(bands: tuple[np.ndarray, ...], chance: object) -> None:
    order = list(range(len(bands[0])))
    chance.shuffle(order)  # type: ignore[attr-defined]
    # Of dates that are alike in blue either may be the reference.
    blue = bands[0] + np.linspace(0, 1e-3, bands[0].size, dtype=np.float32).reshape(bands[0].shape)
    found = outlying(blue, *bands[1:])
    again = outlying(blue[order], *(band[order] for band in bands[1:]))
    values = np.sort(np.where(np.isfinite(blue), blue, np.inf), axis=0)
    with np.errstate(invalid="ignore"):
        apart = (np.diff(values, axis=0) > 0) | ~np.isfinite(values[1:])
    assert (found[order] == again)[:, apart.all(axis=0)].all()


@settings(deadline=None)
@given(dates())
def test_a_pixel_does_not_know_its_neighbours(bands: tuple[np.ndarray, ...]) -> None:
    whole = outlying(*bands)
    for row in range(whole.shape[1]):
        np.testing.assert_array_equal(whole[:, row : row + 1], outlying(*(band[:, row : row + 1] for band in bands)))


def spectra(*pixels: tuple[float, float, float]) -> tuple[np.ndarray, ...]:
    return tuple(np.array(values, np.float32).reshape(-1, 1, 1) for values in zip(*pixels, strict=True))


def judged(*pixels: tuple[float, float, float]) -> list[bool]:
    return outlying(*spectra(*pixels)).ravel().tolist()


FIELD, CLOUD, VEIL, SHADE = (0.05, 0.06, 0.35), (0.55, 0.56, 0.62), (0.16, 0.15, 0.40), (0.03, 0.03, 0.12)


def test_cloud_veil_and_shadow_among_clear_dates() -> None:
    assert judged(FIELD, CLOUD) == [False, True]
    assert judged(FIELD, VEIL, FIELD) == [False, True, False]
    assert judged(FIELD, SHADE, FIELD) == [False, True, False]
    assert judged(CLOUD, FIELD, SHADE, VEIL, FIELD) == [True, False, True, True, False]


def test_of_two_dates_no_shadow_is_believed_and_what_changed_on_the_ground_stays() -> None:
    assert judged(FIELD, SHADE) == [False, False]
    ploughed, green = (0.10, 0.18, 0.26), (0.04, 0.04, 0.45)
    assert judged(green, ploughed) == [False, False]
    sand_in_shade, sand = (0.08, 0.11, 0.16), (0.16, 0.30, 0.42)
    assert judged(sand, sand_in_shade) == [False, False]
    water, water_with_mud = (0.05, 0.03, 0.01), (0.09, 0.12, 0.04)
    assert judged(water, water_with_mud, water) == [False, False, False]
