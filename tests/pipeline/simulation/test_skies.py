"""Skies for training: the same again from a seed, and labels that follow from what was drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.simulation.skies import CoveredGround, cover_ground, power_law_field
from spex_core.cloud_classes import CLEAR, CLOUD_CLASSES, SHADOW, SNOW, THICK, THIN

GROUND = np.array([0.05, 0.07, 0.06, 0.35, 0.20, 0.11], np.float32)[:, None, None] * np.ones((6, 64, 64), np.float32)


def covered(seed: int, ground: np.ndarray = GROUND) -> CoveredGround:
    return cover_ground(np.random.default_rng(seed), ground)


def test_labels_are_those_of_the_network() -> None:
    assert [CLOUD_CLASSES[label] for label in (CLEAR, THICK, THIN, SHADOW, SNOW)] == list(CLOUD_CLASSES)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31))
def test_every_sky_is_finite_labelled_and_the_same_again(seed: int) -> None:
    first, second = covered(seed), covered(seed)
    assert first.reflectance.shape == (6, 64, 64)
    assert first.reflectance.dtype == np.float32
    assert np.isfinite(first.reflectance).all()
    assert first.label.max() <= SNOW
    assert ((first.weight >= 0) & (first.weight <= 1)).all()
    for name in ("reflectance", "label", "weight"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_unknown_ground_has_no_weight() -> None:
    ground = GROUND.copy()
    ground[:, :10] = np.nan
    for seed in range(10):
        sky = covered(seed, ground)
        unknown = np.isnan(sky.reflectance).any(axis=0)
        assert not unknown[10:].any()
        assert (sky.weight[unknown] == 0).all()
        assert sky.weight[10:].any()


def test_clouds_are_brighter_and_shadows_darker_than_the_ground_and_snow_is_dark_beyond_the_visible() -> None:
    found: dict[int, list[np.ndarray]] = {label: [] for label in range(5)}
    for seed in range(120):
        sky = covered(seed)
        for label, pixels in found.items():
            at = (sky.label == label) & (sky.weight == 1)
            if at.sum() > 30:
                pixels.append(np.median(sky.reflectance[:, at], axis=1))
    medians = {label: np.median(np.stack(pixels), axis=0) for label, pixels in found.items() if pixels}
    assert set(medians) == set(range(5)), "a kind of sky is never drawn"
    assert medians[THICK][0] > 3 * medians[CLEAR][0]
    assert medians[CLEAR][0] < medians[THIN][0] < medians[THICK][0]
    assert medians[SHADOW][3] < 0.75 * medians[CLEAR][3]
    assert medians[SNOW][1] > 2.5 * medians[SNOW][4]
    assert medians[THICK][1] < 2.5 * medians[THICK][4]


@pytest.mark.parametrize("slope", [2.5, 4.0])
def test_fields_are_periodic_and_rougher_with_a_smaller_slope(slope: float) -> None:
    field = power_law_field(np.random.default_rng(1), 128, slope, 60.0)
    assert field.dtype == np.float32
    assert abs(float(field.mean())) < 1e-3
    assert abs(float(field.std()) - 1) < 1e-3
    step = np.abs(np.diff(field, axis=0)).mean()
    seam = np.abs(field[0] - field[-1]).mean()
    assert seam < 1.5 * step


def test_a_smaller_slope_is_rougher() -> None:
    rough, smooth = (power_law_field(np.random.default_rng(1), 128, slope, 60.0) for slope in (2.2, 4.2))
    assert np.abs(np.diff(rough, axis=0)).mean() > 2 * np.abs(np.diff(smooth, axis=0)).mean()
