"""Final layers of a block: the winner, its confidence in percent, and what is nodata."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.predict.stitch import finalise
from tests.pipeline.small_plans import LEGEND


def _scores(*pixels: tuple[float, ...]) -> np.ndarray:
    """One row of pixels, each given by its first class scores; the others are zero."""
    scores = np.zeros((len(LEGEND), 1, len(pixels)), np.float32)
    for i, values in enumerate(pixels):
        scores[: len(values), 0, i] = values
    return scores


def test_the_highest_score_decides_and_a_tie_goes_to_the_first_class() -> None:
    layers = finalise(
        _scores((0.2, 0.8), (0.5, 0.5), (0.1, 0.45, 0.45)), np.ones((1, 3), np.uint8), np.ones((1, 3), bool), LEGEND
    )
    assert layers.landcover.tolist() == [[LEGEND.codes[1], LEGEND.codes[0], LEGEND.codes[1]]]
    assert layers.confidence.tolist() == [[80, 50, 45]]
    assert layers.scores[:2, 0, 0].tolist() == [51, 204]
    assert {layers.scores.dtype, layers.landcover.dtype, layers.confidence.dtype} == {np.dtype(np.uint8)}


def test_pixels_without_observation_outside_the_area_or_without_tiles_are_nodata() -> None:
    scores = _scores((1.0,), (1.0,), (1.0,), (np.nan,))
    valid_count = np.array([[3, 0, 3, 3]], np.uint8)
    mask = np.array([[True, True, False, True]])
    layers = finalise(scores, valid_count, mask, LEGEND)
    assert layers.landcover.tolist() == [[LEGEND.codes[0], 0, 0, 0]]
    assert layers.confidence.tolist() == [[100, 255, 255, 255]]
    assert not layers.scores[:, 0, 1:].any()


def test_zero_confidence_is_not_nodata() -> None:
    layers = finalise(_scores((0.004,)), np.ones((1, 1), np.uint8), np.ones((1, 1), bool), LEGEND)
    assert layers.confidence.tolist() == [[0]]


def test_layers_that_do_not_fit_the_legend_are_refused() -> None:
    with pytest.raises(ValueError, match="classes"):
        finalise(np.zeros((3, 2, 2), np.float32), np.ones((2, 2), np.uint8), np.ones((2, 2), bool), LEGEND)
