"""The benchmark of fusing: its figures on maps whose answer is known, without a model."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.fusion import POOLS, Tally, dated
from pipeline.predict.fusion import looks
from spex_core.legend import Legend

CODES = np.array(Legend.from_yaml().codes, np.uint8)


def scores_of(classes: np.ndarray, confidence: float) -> np.ndarray:
    rest = (1 - confidence) / (len(CODES) - 1)
    return np.where(np.arange(len(CODES))[:, None, None] == classes, confidence, rest).astype(np.float32)


def test_figures_are_those_of_a_map_whose_truth_is_known() -> None:
    said = np.zeros((10, 10), int)
    truth = np.full((10, 10), CODES[0])
    truth[:2] = CODES[1]
    truth[9] = 0  # not known
    tally = Tally()
    tally.add(scores_of(said, 0.9), truth, CODES)
    other = said.copy()
    other[:1] = 3
    tally.compare(scores_of(said, 0.9), scores_of(other, 0.9))
    figures = tally.figures()
    assert figures["accuracy"] == pytest.approx(70 / 90)
    assert figures["miou"] == pytest.approx((70 / 90 + 0) / 2)
    assert figures["calibration_error"] == pytest.approx(0.9 - 70 / 90, abs=1e-6)
    assert figures["agreement"] == pytest.approx(0.9)
    assert set(Tally(same=1, compared=1).figures()) == {"agreement"}


def test_every_pooling_agrees_with_dates_that_agree_and_sums_to_one() -> None:
    scores = np.stack([scores_of(np.full((4, 4), 2), 0.8)] * 3)
    own = np.ones((3, 4, 4), bool)
    for name, pool in POOLS.items():
        found = pool(scores, own)
        assert np.allclose(found.sum(axis=0), 1, atol=1e-5), name
        assert (found.argmax(axis=0) == 2).all(), name
        assert found[2, 0, 0] == pytest.approx(0.8, abs=0.01) or "sum of log" in name


def test_dates_with_holes_are_packed_one_a_layer() -> None:
    image = np.full((10, 8, 8), 0.2, np.float32)
    image[4] = np.nan  # a band that nobody has
    cloudy = image.copy()
    cloudy[:, :4] = np.nan
    found = dated([image, cloudy])
    assert looks(found) == [1, 2]
    assert (found.numbers[1, :4] == 0).all()
    assert np.isnan(found.composite[4]).all()
