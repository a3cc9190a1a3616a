"""Rows of the table: groups of classes, gains, what is counted at all."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.evaluation.classes import Classes, channels_of, compared_classes
from pipeline.evaluation.result import Row, gain
from pipeline.evaluation.tally import Tally
from spex_core.legend import Legend, LegendClass
from tests.pipeline.comparison.test_measures import THREE


def test_a_row_is_judged_in_groups_of_the_asked_classes() -> None:
    classes = compared_classes(THREE, {"land": (10, 20)})
    tally = Tally(classes, tolerance_px=1, bins=10)
    scores = np.array([[0.4, 0.5, 0.1], [0.3, 0.1, 0.1], [0.3, 0.4, 0.8]], np.float32)[:, None]
    tally.add(scores, np.zeros((1, 3), np.int16))
    assert tally.assessment.overall == pytest.approx(2 / 3)
    # Confidence is what the whole group has: 0.7 and 0.6, both right; 0.8 in a class of no group, which is wrong.
    assert tally.calibration.error == pytest.approx((0.3 + 0.4 + 0.8) / 3, abs=1e-6)


def row(*hits: int) -> Row:
    """One chip of 100 pixels of class A per entry, so many of them found, the others taken for B."""
    tally = Tally(compared_classes(THREE, {}), tolerance_px=1, bins=10)
    for found in hits:
        scores = np.zeros((3, 1, 100), np.float32)
        scores[0, 0, :found] = scores[1, 0, found:] = 1
        tally.add(scores, np.zeros((1, 100), np.int16))
    return Row(tally.assessment, (), math.nan, math.nan, tally.by_chip)


def test_a_gain_has_its_sign_and_an_interval() -> None:
    found = gain(row(80, 60, 70, 90), row(70, 50, 60, 80))
    assert (found.accuracy, found.miou) == pytest.approx((0.1, 0.1))
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))  # the same in every chip
    assert gain(row(50, 50), row(60, 60)).miou == pytest.approx(-0.1)
    doubtful = gain(row(90, 50, 80, 40), row(50, 90, 40, 78))
    assert doubtful.low < 0 < doubtful.high


def test_unlabelled_pixels_do_not_count() -> None:
    tally = Tally(compared_classes(THREE, {}), tolerance_px=1, bins=10)
    scores = np.eye(3, dtype=np.float32)[:, None]
    tally.add(scores, np.array([[0, -1, -1]], np.int16))
    assert tally.assessment.confusion.sum() == 1


def test_labels_find_their_compared_class() -> None:
    classes = compared_classes(THREE, {"water": (80,), "land": (10, 20)})
    assert channels_of(THREE, THREE, classes).tolist() == [1, 1, 0]
    named = Legend("n", "N", (LegendClass(1, "land", "land", "#000000"),))
    assert channels_of(named, THREE, classes).tolist() == [1]
    with pytest.raises(ConfigError, match=r"groups"):
        channels_of(Legend("x", "X", (LegendClass(1, "moss", "moss", "#000000"),)), THREE, classes)


def test_a_group_of_unknown_codes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"groups\.water: 81"):
        compared_classes(THREE, {"water": (81,)})
    assert isinstance(compared_classes(THREE, {}), Classes)
