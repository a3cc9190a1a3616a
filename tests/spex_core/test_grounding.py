from __future__ import annotations

import numpy as np
import pytest
import torch

from spex_core.answers import check, describe
from spex_core.grounding import supported_answer
from spex_core.legend import Legend
from spex_core.prompts import short_answer
from tests.spex_core.conftest import build_tiny_model

SIZE = 60


def scores_of(labels: np.ndarray, classes: int, sure: float = 0.9) -> np.ndarray:
    other = (1 - sure) / (classes - 1)
    return np.where(labels[None] == np.arange(classes)[:, None, None], sure, other).astype(np.float32)


@pytest.fixture
def labels(legend: Legend) -> np.ndarray:
    """Trees over the left 40 %, water elsewhere."""
    labels = np.full((SIZE, SIZE), legend.codes.index(80))
    labels[:, :24] = legend.codes.index(10)
    return labels


@pytest.fixture
def trees(legend: Legend) -> int:
    return legend.codes.index(10)


def test_a_true_answer_is_said_as_it_was_written(legend: Legend, labels: np.ndarray, trees: int) -> None:
    noun = legend.classes[trees].noun
    masks = {entry.noun: labels == k for k, entry in enumerate(legend)}
    others = {other: mask for other, mask in masks.items() if other != noun}
    for seed in range(20):
        text = describe(noun, masks[noun], np.random.default_rng(seed), form="full", others=others)
        assert supported_answer(text, legend, trees, scores_of(labels, len(legend))) == text


def test_a_false_sentence_is_left_out_and_the_class_is_still_named(
    legend: Legend, labels: np.ndarray, trees: int
) -> None:
    noun = legend.classes[trees].noun
    water = legend.classes[legend.codes.index(80)].noun
    false, true = f"The {noun} regions cover about 75 percent of this image.", f"They mostly border {water} regions."
    said = supported_answer(f"{false} {true} {true}", legend, trees, scores_of(labels, len(legend)))
    assert said == f"{short_answer(noun)} {true}"
    assert supported_answer(false, legend, trees, scores_of(labels, len(legend))) == short_answer(noun)
    assert supported_answer("Once upon a time", legend, trees, scores_of(labels, len(legend))) == short_answer(noun)


def test_there_is_no_other_without_a_first(legend: Legend, labels: np.ndarray, trees: int) -> None:
    labels[5:20, 40:55] = trees
    noun = legend.classes[trees].noun
    first = "The largest is huge, at middle-left, centred on 0.2, 0.5."
    other = "Another is large, at top-right, centred on 0.8, 0.2."
    scores = scores_of(labels, len(legend))
    assert supported_answer(f"{first} {other}", legend, trees, scores) == f"{short_answer(noun)} {first} {other}"
    assert supported_answer(other, legend, trees, scores) == short_answer(noun)


def test_what_a_slight_doubt_overturns_is_not_claimed(legend: Legend, labels: np.ndarray, trees: int) -> None:
    noun = legend.classes[trees].noun
    text = f"The {noun} regions cover about 40 percent of this image."
    scores = scores_of(labels, len(legend))
    assert supported_answer(text, legend, trees, scores) == text
    # Another 20 % of the image is nearly as much trees as water.
    scores[:, :, 24:36] = 0.05
    scores[trees, :, 24:36], scores[legend.codes.index(80), :, 24:36] = 0.3, 0.35
    assert supported_answer(text, legend, trees, scores) == short_answer(noun)


def test_nothing_is_claimed_of_a_class_that_the_model_is_unsure_of(
    legend: Legend, labels: np.ndarray, trees: int
) -> None:
    noun = legend.classes[trees].noun
    text = f"The {noun} regions cover about 40 percent of this image."
    assert supported_answer(text, legend, trees, scores_of(labels, len(legend), sure=0.6)) == short_answer(noun)


def test_absence_may_be_claimed(legend: Legend, labels: np.ndarray) -> None:
    snow = legend.codes.index(70)
    text = f"There is no {legend.classes[snow].noun} in this image."
    assert supported_answer(text, legend, snow, scores_of(labels, len(legend), sure=0.96)) == text
    assert supported_answer(text, legend, legend.codes.index(80), scores_of(labels, len(legend))) != text


def test_predict_says_only_what_its_masks_bear_out(tiles: torch.Tensor, legend: Legend) -> None:
    model = build_tiny_model(legend).eval()
    plain = model.predict(tiles[:1], legend, explain="brief")
    assert plain.texts == plain.written
    model.config.checked_answers = True
    checked = model.predict(tiles[:1], legend, explain="brief")
    assert checked.written == plain.written
    torch.testing.assert_close(checked.scores, plain.scores, rtol=0, atol=0)
    assert checked.texts is not None
    assert checked.scores is not None
    best = checked.scores[0].argmax(0).numpy()
    for k, (entry, text) in enumerate(zip(legend, checked.texts[0], strict=True)):
        assert all(claim.supported for claim in check(text, entry.noun, best == k))
