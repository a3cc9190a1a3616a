from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spex_core import answers
from spex_core.answer_templates import ABSENT, AMOUNTS, COUNTS, NEIGHBOURS, OBJECTS, SINGLE, SPECTRA
from spex_core.answers import check, corpus, describe, supported_share
from spex_core.batches import Recipe, Stage, step_batch
from spex_core.label_facts import CELLS, class_facts
from spex_core.legend import Legend
from spex_core.processing import SpexProcessor
from spex_core.prompts import short_answer, whole_sentences
from spex_core.tokenizer import build_tokenizer

NOUNS = ("tree", "snow and ice", "water", "built-up")


def random_masks(seed: int, size: int = 48) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A random label map of four classes as masks by noun, and reflectance with a missing band now and then."""
    rng = np.random.default_rng(seed)
    labels = np.full((size, size), int(rng.integers(4)))
    for _ in range(int(rng.integers(0, 12))):
        y, x, h, w = (int(v) for v in rng.integers(0, size, 4))
        labels[y : y + h // 2 + 1, x : x + w // 2 + 1] = int(rng.integers(4))
    if rng.random() < 0.3:
        labels = np.where(rng.random(labels.shape) < 0.2, rng.integers(0, 4, labels.shape), labels)
    reflectance = rng.uniform(0, 0.5, (10, size, size)).astype(np.float32)
    if rng.random() < 0.3:
        reflectance[int(rng.integers(10))] = np.nan
    return {noun: labels == k for k, noun in enumerate(NOUNS)}, reflectance


def without(masks: dict[str, np.ndarray], noun: str) -> dict[str, np.ndarray]:
    return {name: mask for name, mask in masks.items() if name != noun}


def square() -> np.ndarray:
    """A quarter of the height and width of a 60 px image, in its top-left ninth."""
    mask = np.zeros((60, 60), bool)
    mask[2:17, 2:17] = True
    return mask


@given(seed=st.integers(0, 100_000))
@settings(max_examples=60, deadline=None)
def test_every_claim_of_every_answer_is_supported_by_its_mask(seed: int) -> None:
    masks, reflectance = random_masks(seed)
    rng = np.random.default_rng(seed)
    for noun, mask in masks.items():
        for form in ("brief", "full"):
            text = describe(noun, mask, rng, form=form, reflectance=reflectance, others=without(masks, noun))  # type: ignore[arg-type]
            claims = check(text, noun, mask, reflectance, without(masks, noun))
            assert claims, text
            assert [c for c in claims if not c.supported] == [], text


def test_answers_about_another_mask_are_not_supported() -> None:
    shares = []
    for seed in range(60):
        masks, reflectance = random_masks(seed)
        wrong, other_pixels = random_masks(seed + 1000)
        rng = np.random.default_rng(seed)
        text = describe("tree", masks["tree"], rng, form="full", reflectance=reflectance, others=without(masks, "tree"))
        claims = check(text, "tree", wrong["tree"], other_pixels, without(wrong, "tree"))
        shares.append(supported_share(claims))
    assert np.mean(shares) < 0.5
    assert sum(share == 1 for share in shares) <= 6  # both absent, or one simple sentence that is true of both


@pytest.mark.parametrize(
    ("said", "instead", "kind"),
    [
        ("about 6 percent", "about 9 percent", "amount"),
        ("about 6 percent", "less than 1 percent", "amount"),
        ("a part", "most", "part"),
        ("one", "two", "count"),
        ("at top-left,", "at bottom-left,", "largest_location"),
        ("mainly at top-left", "mainly at center", "main"),
        ("largest is large", "largest is small", "largest_size"),
        ("compact", "elongated", "largest_shape"),
        ("compact", "irregular", "largest_shape"),
        ("0.2, 0.2", "0.2, 0.5", "largest_centroid"),
        ("border grassland", "border cropland", "neighbour"),
        ("NDVI is about 0.5", "NDVI is about 0.7", "index"),
        ("NDVI is about 0.5", "NDVI is about -0.5", "index"),
    ],
)
def test_a_changed_word_or_number_is_the_claim_that_fails(said: str, instead: str, kind: str) -> None:
    reflectance = np.full((10, 60, 60), 0.1, np.float32)
    reflectance[6] = 0.3
    others = {"grassland": ~square(), "cropland": np.zeros((60, 60), bool)}
    text = (
        "The water regions cover about 6 percent of this image, mainly at top-left. "
        "The water regions make up a part of this image, mainly at top-left. "
        "There is one water region over about 6 percent of this image, at top-left. "
        "The largest is large, at top-left, centred on 0.2, 0.2. "
        "The largest, large and compact, is centred on 0.2, 0.2. "
        "They mostly border grassland regions. Their mean NDVI is about 0.5."
    )
    assert all(claim.supported for claim in check(text, "water", square(), reflectance, others))
    assert said in text
    failed = [
        c for c in check(text.replace(said, instead, 1), "water", square(), reflectance, others) if not c.supported
    ]
    assert [claim.kind for claim in failed] == [kind]
    assert failed[0].value in instead
    assert failed[0].measured != failed[0].value


def test_presence_and_absence_are_claims() -> None:
    empty = np.zeros((60, 60), bool)
    for template in ABSENT:
        text = template.format(noun="water")
        assert [c.supported for c in check(text, "water", empty)] == [True]
        assert [c.supported for c in check(text, "water", square())] == [False]
    present = check("The water regions cover less than 1 percent of this image.", "water", empty)
    assert [c.supported for c in present] == [False]  # true as a number, but there is none


def test_what_cannot_be_read_counts_as_unsupported() -> None:
    good = "The water regions cover about 6 percent of this image."
    for text in (
        "Water is wet.",
        "The tree regions cover about 6 percent of this image.",  # another class was asked for
        "The water regions cover about 6 percent of this",  # cut off
        "The water regions cover about six percent of this image.",
        "the water regions cover about 6 percent of this image.",
        "The water regions cover about 6 percent of this image",
    ):
        claims = check(f"{good} {text}", "water", square())
        assert [(c.kind, c.supported) for c in claims] == [("amount", True), ("unparsed", False)], text
        assert supported_share(claims) == 0.5


def test_a_text_cut_at_its_limit_ends_with_its_last_whole_sentence() -> None:
    said = "The water regions cover about 6 percent of this image. The largest is centred on 0.2, 0."
    assert whole_sentences(said + "4 and so") == "The water regions cover about 6 percent of this image."
    assert whole_sentences("The water regions cover") == "The water regions cover"


def test_saying_a_thing_twice_earns_nothing_and_saying_nothing_is_no_share() -> None:
    good = "The water regions cover about 6 percent of this image."
    assert len(check(" ".join([good] * 5), "water", square())) == 1
    assert check(short_answer("water"), "water", square()) == []
    assert check("", "water", square()) == []
    assert np.isnan(supported_share([]))


def test_what_nothing_was_given_to_check_with_is_not_supported() -> None:
    text = "They mostly border grassland regions. Their mean NDVI is about 0.5."
    assert [c.supported for c in check(text, "water", square())] == [False, False]


def test_sentences_of_the_first_checkpoint_are_read() -> None:
    text = (
        "The water regions cover about 6 percent of this image, the largest at top-left. "
        "One is large, at top-left, centred on 0.2, 0.2. One is large, at bottom-left, centred on 0.2, 0.8."
    )
    assert [c.supported for c in check(text, "water", square())] == [True] * 6 + [False] * 2


def test_the_same_seed_gives_the_same_words_and_seeds_give_many() -> None:
    masks, reflectance = random_masks(5)
    said = [
        describe("tree", masks["tree"], np.random.default_rng(seed), form="full", reflectance=reflectance,
                 others=without(masks, "tree"))
        for seed in (*range(40), 0)
    ]  # fmt: skip
    assert said[0] == said[-1]
    assert len(set(said)) > 30


def test_the_short_form_is_the_answer_of_run_time() -> None:
    assert describe("water", square(), np.random.default_rng(0), form="short") == short_answer("water")


def test_facts_are_measured_on_the_mask() -> None:
    mask = square()
    mask[50:53, 20:55] = True
    mask[30, 30] = True
    facts = class_facts(mask, None, {"left": np.pad(np.ones((60, 2), bool), ((0, 0), (0, 58)))})
    assert facts.share == pytest.approx((225 + 105 + 1) / 3600)
    assert facts.count == 2  # a lone pixel is not counted
    assert [o.aspect for o in facts.objects] == pytest.approx([1, 35 / 3])
    assert [o.fill for o in facts.objects] == pytest.approx([1, 1])
    assert facts.cells[CELLS.index("top-left")] == pytest.approx(225 / 331)
    assert facts.borders == {"left": 15}
    assert facts.indices == {}


def test_every_template_is_used_and_words_that_need_data_need_it() -> None:
    texts = corpus(["tree"] * 3 + ["water", "grassland"], np.random.default_rng(1), 60)
    used = Counter()
    groups = (ABSENT, AMOUNTS, COUNTS, SINGLE, OBJECTS["largest"], OBJECTS["other"], NEIGHBOURS, SPECTRA)
    for template in (t for group in groups for t in group):
        pattern = re.compile(r".+?".join(map(re.escape, re.split(r"\{\w+\}", template))))
        used[template] = sum(bool(pattern.search(text)) for text in texts)
    assert [template for template, count in used.items() if not count] == []
    bare = {describe("water", square(), np.random.default_rng(s), form="full") for s in range(30)}
    assert not any("mean" in text or "border" in text for text in bare)


def test_answers_fit_the_token_budget_of_a_fresh_tokenizer(legend: Legend) -> None:
    nouns = [entry.noun for entry in legend]
    tokenizer = build_tokenizer(corpus(nouns, np.random.default_rng(0), 40), 820)
    longest = {"brief": 0, "full": 0}
    for seed in range(60):
        masks, reflectance = random_masks(seed + 500)
        rng = np.random.default_rng(seed)
        for noun, mask in masks.items():
            for form in ("brief", "full"):
                text = describe(noun, mask, rng, form=form, reflectance=reflectance, others=without(masks, noun))  # type: ignore[arg-type]
                longest[form] = max(longest[form], len(tokenizer(text, add_special_tokens=False)["input_ids"]))
    assert longest["brief"] <= 48
    assert longest["full"] <= 160
    assert answers.describe is describe


def test_the_short_answer_conditions_masks_but_is_not_learnt_as_text(legend: Legend) -> None:
    class Chips:
        def __len__(self) -> int:
            return 1

        def chip(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            target = np.zeros((len(legend), 64, 64), np.float32)
            target[0] = 1
            return np.full((10, 64, 64), 0.1, np.float32), target, np.ones((64, 64), np.float32)

    nouns = [entry.noun for entry in legend]
    processor = SpexProcessor(build_tokenizer(corpus(nouns, np.random.default_rng(0), 5), 500))
    recipe = Recipe((Chips(),), (1.0,), legend, processor, 0, 0.0, True)
    written = Counter()
    for step in range(8):
        text = step_batch(recipe, Stage(8, 1, 32), step).text
        assert text is not None
        for ids, labels, answer in zip(text.suffix_ids, text.labels, text.answer_mask, strict=True):
            assert answer.any()
            said = processor.decode(ids[answer].tolist())
            learnt = bool((labels != -100).any())
            assert learnt == (not said.endswith("are outlined.")), said
            written[learnt] += 1
    assert min(written[True], written[False]) >= len(legend)
