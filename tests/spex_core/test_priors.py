from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spex_core.indices import SPECTRAL_INDICES, spectral_index
from spex_core.legend import Legend
from spex_core.priors import index_margins, index_scores, location_word, region_attributes


@pytest.mark.parametrize("name", SPECTRAL_INDICES)
def test_an_index_is_the_same_for_arrays_and_tensors_and_stays_in_range(name: str) -> None:
    reflectance = np.random.default_rng(1).normal(0.1, 0.2, (10, 16, 16)).astype(np.float32)
    value = spectral_index(name, reflectance)
    np.testing.assert_allclose(value, spectral_index(name, torch.from_numpy(reflectance)).numpy(), rtol=1e-6)
    assert value.shape == (16, 16)
    assert name == "brightness" or (np.abs(value) <= 1).all()


def test_ndvi_is_nir_against_red() -> None:
    reflectance = np.zeros((10, 1, 1), np.float32)
    reflectance[2], reflectance[6] = 0.1, 0.3
    assert spectral_index("ndvi", reflectance)[0, 0] == pytest.approx(0.5)


def test_index_scores_sum_to_one_and_find_water_and_forest(legend: Legend, tiles: torch.Tensor) -> None:
    scores = index_scores(tiles[0].numpy(), legend)
    np.testing.assert_allclose(scores.sum(0), 1, atol=1e-5)
    best = np.array(legend.codes)[scores.argmax(0)]
    assert (best[:, :38] == 10).mean() > 0.9
    assert (best[:, 42:] == 80).mean() > 0.9


def test_a_margin_is_the_tightest_condition(legend: Legend, tiles: torch.Tensor) -> None:
    reflectance = tiles[0].numpy()
    water = index_margins(reflectance, legend)[legend.codes.index(80)]
    mndwi = spectral_index("mndwi", reflectance) - 0.10
    assert (water <= mndwi + 1e-6).all()


def test_records_are_largest_first_and_at_most_ten() -> None:
    mask = np.zeros((120, 120), bool)
    for i in range(12):
        mask[10 * i : 10 * i + 1 + i // 2, 3 : 3 + i + 1] = True
    records = region_attributes(mask)
    assert len(records) == 10
    assert [r.share for r in records] == sorted((r.share for r in records), reverse=True)


def test_a_single_pixel_keeps_its_true_centroid() -> None:
    mask = np.zeros((64, 64), bool)
    mask[48, 16] = True
    (record,) = region_attributes(mask)
    assert record.centroid == (0.25, 0.75)
    assert record.location == "bottom-left"
    assert record.box == ((0.25, 0.75),) * 4
    assert record.size == "very tiny"


def test_a_slanted_bar_gets_a_slanted_box() -> None:
    y, x = np.mgrid[:128, :128]
    mask = (np.abs(x - y) < 6) & (x + y > 60) & (x + y < 190)
    (record,) = region_attributes(mask)
    corners = np.array(record.box) * 128
    sides = np.linalg.norm(np.roll(corners, -1, axis=0) - corners, axis=1)
    assert sides.min() < 12  # an upright box would be about 70 px on both sides
    assert sides.max() > 80


def test_records_carry_the_mean_indices_of_their_pixels(tiles: torch.Tensor) -> None:
    reflectance = tiles[0].numpy()
    mask = np.zeros((64, 64), bool)
    mask[:, 50:] = True
    (record,) = region_attributes(mask, reflectance)
    assert record.indices["mndwi"] == pytest.approx(float(spectral_index("mndwi", reflectance)[mask].mean()), abs=1e-6)


@given(seed=st.integers(0, 10_000), density=st.floats(0.0, 1.0))
@settings(max_examples=40, deadline=None)
def test_every_record_lies_inside_the_image(seed: int, density: float) -> None:
    mask = np.random.default_rng(seed).random((24, 40)) < density
    for record in region_attributes(mask):
        assert all(0 <= v <= 1 for v in record.centroid)
        assert record.location == location_word(*record.centroid)
        # a rotated box may stick out of the image by less than its own short side
        assert all(-0.5 <= v <= 1.5 for corner in record.box for v in corner)
        assert 0 < record.share <= 1


def test_location_words_are_the_thirds_grid() -> None:
    assert location_word(0.1, 0.1) == "top-left"
    assert location_word(0.5, 0.5) == "center"
    assert location_word(1.0, 1.0) == "bottom-right"
    assert location_word(0.5, 0.9) == "bottom-center"
    assert location_word(0.9, 0.5) == "middle-right"
