"""Samples that ask about maps with errors: question, answer and check agree; unknown ground stays unknown."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from pipeline.predict.word_model import MEANINGLESS
from spex_core.answer_check import check_facts, supported_share
from spex_core.answers import describe_facts
from spex_core.augmentation import Chip
from spex_core.label_facts import class_facts
from spex_core.legend import Legend
from spex_core.map_prompts import map_question
from spex_core.map_samples import (
    JOINT_WORDS,
    NO_CLASS,
    OTHER_WORDS,
    QUESTIONS,
    map_sample,
    meanings,
    vocabulary,
    with_errors,
)

SIDE = 64


def a_chip(seed: int, unlabelled: bool = False) -> Chip:
    rng = np.random.default_rng(seed)
    fields = np.stack([ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), 5) for _ in range(9)])
    fields[7:] = -9  # two classes are absent
    target = (fields.argmax(0)[None] == np.arange(9)[:, None, None]).astype(np.float32)
    weight = np.ones((SIDE, SIDE), np.float32)
    weight[: SIDE // 4] = float(not unlabelled)
    return Chip(rng.uniform(0.02, 0.4, (10, SIDE, SIDE)).astype(np.float32), target, weight)


@pytest.mark.parametrize("seed", range(6))
def test_a_sample_is_deterministic_and_names_words_that_have_an_anchor(seed: int, legend: Legend) -> None:
    one, two = (map_sample(legend, a_chip(seed), np.random.default_rng(seed)) for _ in range(2))
    assert one == two
    assert len(one.questions) == len(one.answers) == len(one.words) == QUESTIONS
    known = vocabulary(legend)
    assert [entry.noun for entry in legend] == list(known[: len(legend)])
    for question, answer, word in zip(one.questions, one.answers, one.words, strict=True):
        assert f"the attributes of the {known[word]} regions" in question
        assert known[word] in answer
    assert any("'Area': 'none'" in q or q.endswith("[]") for q in one.questions)  # one is absent


def test_every_word_means_one_class_or_none(legend: Legend) -> None:
    words, meant = vocabulary(legend), meanings(legend)
    assert len(words) == len(set(words)) == len(meant)
    assert meant[: len(legend)] == tuple(range(len(legend)))
    nouns = [entry.noun for entry in legend]
    for word, k in zip(words[len(legend) :], meant[len(legend) :], strict=True):
        assert (k is None) == (word in (*JOINT_WORDS, *NO_CLASS))
        assert k is None or word in OTHER_WORDS[nouns[k]]
    assert not set(words) & set(MEANINGLESS)  # what words are held against is not taught


@pytest.mark.parametrize("seed", range(8))
def test_what_is_taught_of_a_map_holds_on_that_map(seed: int) -> None:
    chip = a_chip(seed, unlabelled=True)
    observed = chip.weight > 0
    codes = np.where(observed, chip.target.argmax(0), -1)
    others = {f"class {k}": codes == k for k in range(1, 9)}
    facts = class_facts(codes == 0, chip.reflectance, others, observed)
    text = describe_facts("class 0", facts, np.random.default_rng(seed), full=True, objects=2)
    assert supported_share(check_facts(text, "class 0", facts)) == 1.0
    assert facts.share == pytest.approx(float((codes == 0).sum() / observed.sum()))
    assert map_question("class 0", facts, whole=False, records=1).count("Size of area") == 1


@pytest.mark.parametrize("seed", range(12))
def test_errors_keep_unknown_ground_and_the_legend(seed: int) -> None:
    codes = a_chip(seed).target.argmax(0)
    codes[:9] = -1
    before = codes.copy()
    drawn = with_errors(codes, 9, np.random.default_rng(seed))
    assert np.array_equal(codes, before)
    assert np.array_equal(drawn < 0, codes < 0)
    assert drawn.max() < 9
