"""Which pixels the scene classification lets through."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.imagery.cloud_mask import clear_mask, grow
from pipeline.settings.run_file import CompositeConfig

DEFAULT = CompositeConfig.model_validate({}).mask_scl


@pytest.mark.parametrize("value", range(12))
def test_each_class_is_masked_or_not_as_the_default_says(value: int) -> None:
    clear = clear_mask(np.full((3, 3), value, np.uint8), DEFAULT, 0)
    assert clear.all() == (value in (2, 4, 5, 6, 7, 11))
    assert clear.any() == clear.all()


def test_snow_is_a_class_here_and_not_a_mask() -> None:
    assert clear_mask(np.full((2, 2), 11, np.uint8), DEFAULT, 0).all()


def test_nodata_is_never_clear_even_if_the_run_file_does_not_mask_it() -> None:
    assert not clear_mask(np.zeros((2, 2), np.uint8), (9,), 0).any()


def test_cloud_grows_by_a_disk_and_defects_do_not() -> None:
    scl = np.full((11, 11), 4, np.uint8)
    scl[5, 5] = 9
    expected = np.ones((7, 7), bool)
    expected[1:6, 3] = expected[3, 1:6] = False
    expected[2:5, 2:5] = False
    np.testing.assert_array_equal(clear_mask(scl, DEFAULT, 2), expected)
    for quiet in (0, 1):
        scl[5, 5] = quiet
        assert (~clear_mask(scl, DEFAULT, 2)).sum() == 1


def test_a_cloud_in_the_halo_reaches_into_the_window() -> None:
    scl = np.full((10, 10), 4, np.uint8)
    scl[0, 5] = 3
    clear = clear_mask(scl, DEFAULT, 2)
    assert clear.shape == (6, 6)
    assert not clear[0, 3]
    assert clear.sum() == 35


@given(radius=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_growing_is_by_euclidean_distance_for_small_and_large_radii(radius: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((24, 24)) < 0.01
    mask[3, 4] = True
    rows, cols = np.nonzero(mask)
    y, x = np.indices(mask.shape)
    nearest = ((y[..., None] - rows) ** 2 + (x[..., None] - cols) ** 2).min(axis=-1)
    np.testing.assert_array_equal(grow(mask, radius), nearest <= radius**2)
