"""Every figure of the table against one computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.comparison.assessment import Assessment
from pipeline.comparison.boundary import BoundaryMatches
from pipeline.comparison.calibration import Calibration, fit_temperature, log_loss, rescaled
from pipeline.comparison.objects import ObjectMatches
from spex_core.legend import Legend, LegendClass

THREE = Legend(
    "three",
    "Three",
    (
        LegendClass(10, "A", "a", "#000000"),
        LegendClass(20, "B", "b", "#0000ff"),
        LegendClass(80, "C", "c", "#00ff00"),
    ),
)


def test_f1_and_mean_recall_by_hand() -> None:
    found = Assessment(THREE, np.array([[6, 2, 0], [1, 11, 0], [0, 0, 0]], np.int64))
    assert found.f1[:2] == pytest.approx([12 / 15, 22 / 25])
    assert math.isnan(found.f1[2])
    assert found.mean_f1 == pytest.approx((12 / 15 + 22 / 25) / 2)
    assert found.mean_recall == pytest.approx((6 / 8 + 11 / 12) / 2)


def test_pixels_mapped_outside_the_compared_classes_are_wrong() -> None:
    found = Assessment(THREE, np.diag([6, 0, 2]).astype(np.int64), np.array([2, 0, 2], np.int64))
    assert found.overall == pytest.approx(8 / 12)
    assert found.producers[0] == pytest.approx(6 / 8)
    assert found.iou[0] == pytest.approx(6 / 8)
    assert found.f1[2] == pytest.approx(4 / 6)
    assert found.users[0] == pytest.approx(1)


def test_calibration_error_by_hand() -> None:
    calibration = Calibration(bins=2)
    # Lower bin: mean confidence 0.3, 1 of 2 right. Upper bin: mean 0.85, 2 of 2 right.
    calibration.add(np.array([0.2, 0.4, 0.7, 1.0], np.float32), np.array([True, False, True, True]))
    assert calibration.error == pytest.approx((2 * 0.2 + 2 * 0.15) / 4, abs=1e-6)


def test_calibration_counts_add_up_over_calls_and_nothing_is_nan() -> None:
    calibration = Calibration(bins=10)
    assert math.isnan(calibration.error)
    for _ in range(3):
        calibration.add(np.array([0.95], np.float32), np.array([True]))
    assert calibration.error == pytest.approx(0.05, abs=1e-6)


def test_temperature_of_a_model_that_is_twice_too_sure() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (3, 20_000))
    honest = np.exp(logits) / np.exp(logits).sum(0)
    labels = (honest.cumsum(0) < rng.random(20_000)).sum(0).clip(max=2)
    target = np.eye(3, dtype=np.float32)[labels].T
    too_sure = rescaled(honest.astype(np.float32), 0.5)
    factor = fit_temperature(too_sure, target)
    assert factor == pytest.approx(2.0, rel=0.05)
    assert log_loss(rescaled(too_sure, factor), target) < log_loss(too_sure, target)


def test_rescaled_scores_sum_to_one_and_keep_their_order() -> None:
    scores = np.array([[0.7, 0.1], [0.2, 0.1], [0.1, 0.8]], np.float32)
    for factor in (0.3, 1.0, 4.0):
        changed = rescaled(scores, factor)
        assert changed.sum(0) == pytest.approx([1, 1], abs=1e-5)
        assert (changed.argmax(0) == scores.argmax(0)).all()
    assert rescaled(scores, 1.0) == pytest.approx(scores, abs=1e-5)


def stripes(border: int, height: int = 4, width: int = 12) -> np.ndarray:
    return np.where(np.arange(width) < border, 0, 1).astype(np.int16)[None].repeat(height, axis=0)


def test_a_boundary_within_the_tolerance_matches_and_beyond_does_not() -> None:
    for shift, tolerance, expected in ((0, 0.0, 1.0), (2, 2.0, 1.0), (3, 2.0, 0.0)):
        matches = BoundaryMatches(2, tolerance)
        matches.add(stripes(5), stripes(5 + shift))
        assert matches.f1 == pytest.approx([expected, expected])


def test_boundary_f1_by_hand() -> None:
    matches = BoundaryMatches(2, 1.0)
    found = stripes(5)
    found[:2] = 1  # class 0 is missing in the upper half, so is its border
    matches.add(stripes(5), found)
    # Border of class 0: 4 px there; found are the last column of its lower half and the rest of its upper row.
    truth_px, met = 4, 3  # rows 1, 2, 3 lie within 1 px of a found border pixel
    found_px, right = 6, 3
    precision, recall = right / found_px, met / truth_px
    assert matches.f1[0] == pytest.approx(2 * precision * recall / (precision + recall))


def test_borders_of_unlabelled_land_are_no_boundaries() -> None:
    matches = BoundaryMatches(2, 1.0)
    reference = np.full((6, 6), -1, np.int16)
    reference[:2], reference[4:] = 0, 1
    matches.add(reference, np.zeros((6, 6), np.int16))
    assert np.isnan(matches.f1).all()
    assert math.isnan(matches.mean_f1)


def test_objects_match_above_half_their_union() -> None:
    reference = np.zeros((10, 20), np.int16)
    found = np.zeros_like(reference)
    reference[0:4, 0:4] = 1
    found[0:4, 1:5] = 1  # 12 of 20 px shared
    reference[6:8, 10:14] = 1
    found[6:8, 12:16] = 1  # 4 of 12 px shared
    found[0, 18] = 1
    matches = ObjectMatches(channel=1)
    matches.add(reference, found)
    assert (matches.matched, matches.found, matches.reference) == (1, 3, 2)
    assert matches.f1 == pytest.approx(2 / 5)
