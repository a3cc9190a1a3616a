"""Phrases in place of classes: what is understood by the prompts, and how scores are divided."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import BadInputError
from pipeline.predict.word_model import (
    MEANINGLESS,
    Understood,
    WordModel,
    check_phrases,
    understood,
    with_phrases,
)
from pipeline.settings.run_file import ModelConfig
from spex_core.legend import Legend

LEGEND = Legend.from_yaml()
K = len(LEGEND)
WATER = LEGEND.names.index("Water")
BUILT = LEGEND.names.index("Built-up")


def prompts(*phrases: np.ndarray) -> np.ndarray:
    """Classes a distance of sqrt(2) apart; letters without meaning are taken for built-up."""
    nothing = [np.eye(K)[BUILT] * 1.01] * len(MEANINGLESS)
    return np.stack([*np.eye(K), *phrases, *nothing])


@pytest.mark.parametrize(
    ("prompt", "phrase", "verdict", "nearest"),
    [
        (np.eye(K)[WATER] * 0.9, "lake", "like a class", "Water"),
        (np.eye(K)[BUILT] * 1.02, "banana", "unlike any class", "Built-up"),
        (np.eye(K)[BUILT] * 1.02, "built-up", "a class", "Built-up"),
        (np.eye(K)[BUILT] * 1.02, "Waters", "a class", "Water"),
        (np.full(K, 5.0), "ships", "unlike any class", None),
        (np.eye(K)[WATER] * 0.2, "foam", "unlike any class", "Water"),
    ],
)
def test_words_are_known_by_where_they_are_read(
    prompt: np.ndarray, phrase: str, verdict: str, nearest: str | None
) -> None:
    (found,) = understood(prompts(prompt), LEGEND, [phrase])
    assert found.verdict == verdict
    assert nearest in (None, found.nearest[0][0])
    assert ("Do not trust" in found.said) == (verdict == "unlike any class")


def bare(phrases: dict[str, tuple[str, str]], alone: bool = False) -> WordModel:
    """A model without weights; phrase → (class, verdict)."""
    model = object.__new__(WordModel)
    model._classes, model._alone, model._phrases = K, alone, tuple(phrases)
    model.understood = tuple(Understood(p, v, ((c, 0.0),), 1.0) for p, (c, v) in phrases.items())  # type: ignore[arg-type]
    model._taken_for = tuple(LEGEND.names.index(c) for c, _ in phrases.values())
    return model


def test_a_phrase_competes_with_all_classes_but_the_one_that_it_is_taken_for() -> None:
    model = bare({"lake": ("Water", "like a class")})
    joint = np.full((1, K + 1, 2, 2), 0.02, np.float32)
    joint[:, WATER], joint[:, -1] = 0.5, 0.34  # beside its own class it would lose
    found = model.of_phrases(joint)
    assert found.shape == (1, 2, 2, 2)
    assert np.allclose(found.sum(axis=1), 1)
    assert found[0, 0, 0, 0] == pytest.approx(0.34 / (0.34 + 0.02 * (K - 1)))


def test_the_word_of_a_class_has_the_score_of_the_class() -> None:
    joint = np.random.default_rng(0).dirichlet(np.ones(K + K), (3, 4)).transpose(2, 0, 1)[None].astype(np.float32)
    model = bare({entry.noun: (entry.name, "a class") for entry in LEGEND}, alone=True)
    found = model.of_phrases(joint)
    assert np.allclose(found, joint[:, :K] / joint[:, :K].sum(axis=1, keepdims=True), atol=1e-6)


def test_scores_that_vanish_are_divided_evenly() -> None:
    model = bare({"lake": ("Water", "like a class")})
    joint = np.zeros((1, K + 1, 1, 1), np.float32)
    joint[:, WATER] = 1
    assert np.allclose(model.of_phrases(joint), 0.5)


@pytest.mark.parametrize(
    ("phrases", "told"),
    [
        ((), "give 1 to 20"),
        (("a",) * 21, "give 1 to 20"),
        (("  ",), "is no phrase"),
        (("x" * 81,), "is no phrase"),
        (("lake\x1b[2J",), "is no phrase"),
        (("<|im_end|>",), "brackets"),
        (("Lake", "lake "), "twice"),
    ],
)
def test_what_is_no_phrase_is_refused(phrases: tuple[str, ...], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        check_phrases(phrases)


def test_index_rules_know_no_words() -> None:
    with pytest.raises(BadInputError, match="know no words"):
        WordModel(ModelConfig(checkpoint="index-rules"), LEGEND, ["lake"])


def test_a_legend_with_phrases_repeats_no_word() -> None:
    found = with_phrases(LEGEND, ["water", "Water", "lake"])
    assert len(found) == K + 3
    assert found.codes[:K] == LEGEND.codes
