"""Answers that can only quote: the rule, over any cutting into tokens, and decoding that keeps to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spex_core.answer_check import check_facts
from spex_core.answers import describe_facts
from spex_core.checkpoints import resolve_checkpoint
from spex_core.label_facts import ClassFacts, class_facts
from spex_core.map_prompts import map_question, map_quotes
from spex_core.processing import SpexProcessor
from spex_core.quoted_decoding import QuotingChoice
from spex_core.quoted_values import Quotes

RULE = Quotes(
    {
        "bout ": ("5 percent",),
        "NDVI is about ": ("0.3", "-0.2"),
        "MNDVI is about ": ("0.7",),
        "ess than ": (),
        "centred on ": ("0.4, 0.6", "0.4, 0.8"),
    }
)


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("", True),
        ("They cover about 5 percent of it.", True),
        ("They cover about 50 percent of it.", False),
        ("They cover about ", True),
        ("They cover about 5", True),
        ("About 6", False),
        ("Less tha", True),
        ("Less than ", False),
        ("NDVI is about 0.3.", True),
        ("NDVI is about 0.3. They", True),
        ("NDVI is about 0.35", False),
        ("NDVI is about 0.3.5", False),
        ("NDVI is about -0.", True),
        ("MNDVI is about 0.7", True),
        ("MNDVI is about 0.3", False),
        ("centred on 0.4, ", True),
        ("centred on 0.4, 0.7", False),
        ("centred on 0.4, 0.6. NDVI is about 0.4", False),
        ("centred on 0.4, 0.6. Another is centred on 0.4, 0.8.", True),
    ],
)
def test_a_text_keeps_to_the_rule_or_does_not(text: str, allowed: bool) -> None:
    data = text.encode()
    assert RULE.allows(data) is allowed
    known = next((n for n in range(len(data), -1, -1) if RULE.allows(data[:n])), 0)
    assert RULE.allows(data, known=known) is allowed  # what is known already need not be read again


def test_an_answer_may_not_end_within_a_value() -> None:
    assert not RULE.allows(b"They cover about 5", ended=True)
    assert not RULE.allows(b"They cover about ", ended=True)
    assert RULE.allows(b"They cover about 5 percent", ended=True)


def facts_of(seed: int) -> tuple[ClassFacts, np.random.Generator]:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 4, (4, 4)).repeat(12, 0).repeat(12, 1)
    pixels = rng.uniform(0.02, 0.5, (10, 1, 1)).astype(np.float32) + np.zeros((10, 48, 48), np.float32)
    others = {name: codes == k for k, name in enumerate(("water", "built-up", "b\u00e2ti"), 1)}
    return class_facts(codes == 0, pixels, others), rng


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_answer_that_is_taught_quotes_its_question(seed: int) -> None:
    facts, rng = facts_of(seed)
    said = describe_facts("tree", facts, rng, full=True, objects=2)
    assert map_quotes("tree", facts).allows(said.encode(), ended=True)


@pytest.fixture(scope="module")
def processor() -> SpexProcessor:
    return SpexProcessor.from_pretrained(resolve_checkpoint("spex-s2-tiny"))


def test_an_answer_begins_with_the_name_that_was_asked_about() -> None:
    facts, _ = facts_of(4)
    quotes = map_quotes("oil palm", facts)
    for said in (
        "The oil palm regions cover ab",
        "There is no oil palm in",
        "About",
        "Regions of oil palm are ab",
        "Th",
    ):
        assert quotes.allows(said.encode())
    for said in ("The largest is", "The tree regions", "Nothing here is bare", "They mostly", "Regions of oil palms"):
        assert not quotes.allows(said.encode())
    begun = "The oil palm regions make up a part of this image, the largest at center. "
    assert quotes.allows((begun + "The largest of them lies at center and is").encode())
    assert not quotes.allows((begun + "The largesttle").encode())


@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_model_prefers_numbers_are_quoted(processor: SpexProcessor, seed: int) -> None:
    facts, rng = facts_of(seed)
    tokenizer, pieces = processor.tokenizer, processor.token_bytes()
    other, _ = facts_of(seed + 1)
    wanted = describe_facts("tree", other, rng, full=True, objects=2)  # of another map
    end = tokenizer.eos_token_id
    quotes = map_quotes("tree", facts)
    choice = QuotingChoice([quotes, None], pieces, (end,))
    liked = [*tokenizer(wanted, add_special_tokens=False)["input_ids"], end]
    generator = torch.Generator().manual_seed(seed)
    going = torch.ones(2, dtype=torch.bool)
    written: list[list[int]] = [[], []]
    for place in range(300):
        scores = torch.rand(2, len(tokenizer), generator=generator)
        scores[:, liked[min(place, len(liked) - 1)]] += 2
        scores[:, end] += 0.9 if place > len(liked) else 0
        tokens = choice.choose(scores, going)
        for row, token in enumerate(tokens.tolist()):
            if going[row]:
                written[row].append(token)
        going &= tokens != end
        if not going.any():
            break
    free = b"".join(pieces[token] for token in written[1][:-1])
    assert free.decode() == wanted
    assert not going[0]
    held = b"".join(pieces[token] for token in written[0][:-1])
    assert quotes.allows(held, ended=True)
    question = map_question("tree", facts)
    for claim in check_facts(held.decode(errors="replace"), "tree", facts):
        if claim.kind in ("amount", "neighbour", "index", "largest_centroid"):
            value = claim.value.split(" is about ")[-1].removeprefix("about ").removeprefix("About ")
            assert claim.supported or value in question or claim.kind == "largest_centroid"


def test_tokens_are_known_by_their_bytes(processor: SpexProcessor) -> None:
    text = "The b\u00e2ti regions cover about 35 percent, \u2265 0.4\n"
    tokens = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert b"".join(processor.token_bytes()[token] for token in tokens).decode() == text
