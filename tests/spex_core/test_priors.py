from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from spex_core.indices import SPECTRAL_INDICES, spectral_index
from spex_core.legend import Legend
from spex_core.priors import (
    _minimum_area_rectangle,
    candidate_masks,
    index_margins,
    index_scores,
    location_word,
    otsu_threshold,
    region_attributes,
)
from spex_core.prompts import attribute_text


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


@given(seed=st.integers(0, 10_000), density=st.floats(0.02, 0.9))
@settings(max_examples=30, deadline=None)
def test_the_box_of_an_object_is_that_of_all_its_pixels(seed: int, density: float) -> None:
    mask = np.random.default_rng(seed).random((20, 32)) < density
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    record = region_attributes(mask)[0]
    largest = int(np.argmax(np.bincount(labels.ravel())[1:])) + 1
    y, x = np.nonzero(labels == largest)
    expected = _minimum_area_rectangle(np.stack([x, y], axis=1).astype(float)) / (32, 20)
    np.testing.assert_allclose(record.box, expected, atol=1e-12)


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


def ndvi_image(ndvi: np.ndarray) -> np.ndarray:
    """Reflectance whose NDVI is as given: red and near infrared sum to 0.4."""
    image = np.full((10, *ndvi.shape), 0.05, np.float32)
    image[2], image[6] = 0.2 * (1 - ndvi), 0.2 * (1 + ndvi)
    return image


def vegetation(*condition: object) -> Legend:
    return Legend.from_dict(
        {"name": "one", "classes": [{"code": 1, "name": "Green", "color": "#00ff00", "prior": [list(condition)]}]}
    )


def two_groups(low: float, high: float) -> np.ndarray:
    """Left half low, right half high, a little noise."""
    ndvi = np.where(np.arange(64) < 32, low, high) + np.random.default_rng(3).normal(0, 0.02, (64, 64))
    return ndvi_image(ndvi.astype(np.float32))


def test_a_bound_with_a_range_follows_an_image_of_two_groups() -> None:
    image = two_groups(0.05, 0.40)  # hazy: the green half does not reach the fixed bound
    assert candidate_masks(image, vegetation("ndvi", 0.5, None)).sum() == 0
    mask = candidate_masks(image, vegetation("ndvi", 0.5, None, {"low": [0.2, 0.6]}))[0]
    assert mask[:, 32:].all()
    assert not mask[:, :32].any()


def test_a_bound_never_leaves_its_range() -> None:
    image = two_groups(0.70, 0.90)  # two kinds of forest: Otsu would cut at 0.8
    assert candidate_masks(image, vegetation("ndvi", 0.5, None, {"low": [0.4, 0.6]})).all()


def test_a_bound_stays_where_the_image_has_one_group() -> None:
    image = ndvi_image(np.random.default_rng(4).normal(0.3, 0.05, (64, 64)).astype(np.float32))
    assert otsu_threshold(spectral_index("ndvi", image)) is None
    assert not candidate_masks(image, vegetation("ndvi", 0.5, None, {"low": [0.2, 0.6]})).any()


def test_a_constant_image_has_no_threshold_and_plain_candidates(legend: Legend) -> None:
    image = ndvi_image(np.full((32, 32), 0.8, np.float32))
    assert otsu_threshold(spectral_index("ndvi", image)) is None
    assert candidate_masks(image, vegetation("ndvi", 0.5, None, {"low": [0.2, 0.6]})).all()
    assert candidate_masks(np.zeros((10, 32, 32), np.float32), legend).shape == (9, 32, 32)


def test_the_index_map_does_not_depend_on_the_window_but_candidates_do(legend: Legend, tiles: torch.Tensor) -> None:
    image = tiles[0].numpy()
    window = (slice(None), slice(16, 48), slice(16, 48))
    assert index_scores(image, legend)[window].tobytes() == index_scores(image[window], legend).tobytes()
    green = two_groups(0.05, 0.40)
    ranged = vegetation("ndvi", 0.5, None, {"low": [0.2, 0.6]})
    assert index_scores(green, ranged).tobytes() == index_scores(green, vegetation("ndvi", 0.5, None)).tobytes()
    assert candidate_masks(green, ranged).any()
    assert not candidate_masks(green[:, :, 40:], ranged).any()  # one group is left


def test_a_missing_band_costs_its_conditions_only(legend: Legend, tiles: torch.Tensor) -> None:
    image = tiles[0].numpy()
    water, trees = legend.codes.index(80), legend.codes.index(10)
    rgb_nir = image.copy()
    rgb_nir[[3, 4, 5, 7, 8, 9]] = np.nan
    masks = candidate_masks(rgb_nir, legend)
    assert masks[water, :, 44:].all()  # MNDWI is gone, NDVI and brightness are left
    assert masks[trees, :, :36].mean() > 0.9
    assert not candidate_masks(np.full_like(image, np.nan), legend).any()
    (record,) = region_attributes(masks[water], rgb_nir, min_pixels=100)
    assert set(record.indices) == {"ndvi"}
    assert set(record.reflectance) == {"B02", "B03", "B04", "B08"}
    assert "nan" not in attribute_text(record, ("size", "indices", "reflectance"))


def test_a_pixel_without_data_is_no_candidate() -> None:
    image = ndvi_image(np.full((32, 32), 0.8, np.float32))
    image[:, 8:24, 8:24] = np.nan
    mask = candidate_masks(image, vegetation("ndvi", 0.5, None))[0]
    assert not mask[9:23, 9:23].any()
    assert mask[:7].all()


def test_salt_and_pepper_is_no_candidate_and_small_objects_have_no_record() -> None:
    ndvi = np.full((64, 64), 0.1, np.float32)
    ndvi[::4, ::4] = 0.8
    ndvi[40:50, 40:50] = 0.8
    mask = candidate_masks(ndvi_image(ndvi), vegetation("ndvi", 0.5, None))[0]
    assert mask[41:49, 41:49].all()
    assert not mask[:36].any()
    speck = np.zeros((64, 64), bool)
    speck[3, 3:6] = True
    assert region_attributes(speck, min_pixels=4) == ()
    assert len(region_attributes(speck)) == 1


def test_an_attribute_text_is_the_published_one_by_default_and_shorter_on_demand(tiles: torch.Tensor) -> None:
    mask = np.zeros((64, 64), bool)
    mask[10:21, 31:50] = True
    (record,) = region_attributes(mask, tiles[0].numpy())
    published = attribute_text(record, ("size", "centroid", "location", "box"))
    assert published == (
        "{'Size of area': 'large', 'Centroid': [0.625, 0.234], 'Location': 'top-center', "
        "'Bounding box': [[0.484, 0.156], [0.766, 0.156], [0.766, 0.312], [0.484, 0.312]]}"
    )
    assert attribute_text(record, ("centroid",), digits=1) == "{'Centroid': [0.6, 0.2]}"
    bands = attribute_text(record, ("reflectance",), digits=2)
    assert bands.startswith("{'Reflectance': {'B02': 0.04, 'B03': 0.05, ")
    assert record.reflectance["B08"] == pytest.approx(float(tiles[0, 6].numpy()[mask].mean()), abs=1e-5)
