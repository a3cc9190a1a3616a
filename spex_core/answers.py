"""Training answers: truthful, varied descriptions of a labelled class, written from templates.

The same templates are the grammar by which a text is taken apart again (:mod:`spex_core.answer_check`). Answers exist
for training only, and prompts never see them (SPIE, arXiv 2508.05202 section III; issue 4).
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from spex_core.answer_check import Claim, check, supported_share
from spex_core.answer_templates import (
    ABSENT,
    AMOUNTS,
    COUNTS,
    NEIGHBOURS,
    OBJECTS,
    SINGLE,
    SPECTRA,
    amount_text,
    count_word,
    index_text,
    part_text,
    point_text,
    shape_word,
)  # fmt: skip
from spex_core.indices import INDEX_LABELS
from spex_core.label_facts import CELLS, EVIDENCE_INDICES, BoolArray, ClassFacts, FloatArray, ObjectFacts, class_facts
from spex_core.prompts import short_answer

EVEN_CELL = 0.15
"""A class spread so evenly that no ninth of the image holds more of it lies mainly nowhere."""

__all__ = ["Claim", "Form", "check", "corpus", "describe", "supported_share"]

Form = Literal["short", "brief", "full"]
"""``short``: the run-time words, no claim; ``brief``: one sentence; ``full``: up to five."""


def describe(
    noun: str,
    mask: BoolArray,
    rng: np.random.Generator,
    *,
    form: Form = "brief",
    reflectance: FloatArray | None = None,
    others: Mapping[str, BoolArray] | None = None,
) -> str:
    """A true description of a labelled class; every number in it is measured on the labels.

    Args:
        noun: Class noun.
        mask: bool ``[H, W]``, pixels labelled as the class.
        rng: Chooses among templates that say something true; the same state gives the same words.
        form: How much is said.
        reflectance: Surface reflectance, float32 ``[10, H, W]`` (NaN: missing), for the spectral evidence of ``full``.
        others: Masks of the other classes by noun, for the neighbour of ``full``.

    Returns:
        One line of text. Percentages are rounded to 1 below 10 and to 5 above, coordinates (shares of the image side,
        x right, y down) and indices to one decimal.
    """
    if form == "short":
        return short_answer(noun)
    full = form == "full"
    facts = class_facts(mask, reflectance if full else None, others if full else None)
    return describe_facts(noun, facts, rng, full=full)


def describe_facts(noun: str, facts: ClassFacts, rng: np.random.Generator, *, full: bool, objects: int = 4) -> str:
    """:func:`describe` of facts that are measured already: in one sentence, or ``full``, of so many objects at most."""
    if facts.share == 0:
        return _pick(ABSENT, {"noun": noun}, rng)
    slots = _class_slots(noun, facts, rng)
    sentences = [_pick((*AMOUNTS, *(SINGLE if facts.count == 1 else COUNTS)), slots, rng)]
    if full:
        sentences += _details(slots, facts, rng, objects)
    return " ".join(sentences)


def _details(slots: dict[str, str], facts: ClassFacts, rng: np.random.Generator, objects: int) -> Iterator[str]:
    if facts.objects:
        yield _pick(OBJECTS["largest"], slots, rng)
    if min(len(facts.objects), objects) > 1:
        second = facts.objects[int(rng.integers(1, min(len(facts.objects), objects)))]
        yield _pick(OBJECTS["other"], slots | _object_slots("other", second), rng)
    if "neighbour" in slots:
        yield _pick(NEIGHBOURS, slots, rng)
    if "index" in slots:
        yield _pick(SPECTRA, slots, rng)


def _class_slots(noun: str, facts: ClassFacts, rng: np.random.Generator) -> dict[str, str]:
    """Slot values that are true of the class; what is not known is left out."""
    amount = amount_text(facts.share)
    slots = {"noun": noun, "amount": amount, "Amount": amount.capitalize(), "part": part_text(facts.share)}
    if max(facts.cells) > EVEN_CELL:
        slots["main"] = CELLS[int(np.argmax(facts.cells))]
    if facts.count:
        slots["count"] = count_word(facts.count)
    if facts.objects:
        slots |= _object_slots("largest", facts.objects[0])
    if facts.borders:
        slots["neighbour"] = max(facts.borders, key=lambda other: facts.borders[other])
    if facts.indices:
        names = [name for name in EVIDENCE_INDICES if name in facts.indices]
        chosen = [names[int(i)] for i in rng.permutation(len(names))[:2]]
        for slot, name in zip(("index", "second_index"), chosen, strict=False):
            slots[slot] = index_text(INDEX_LABELS[name], facts.indices[name])
    return slots


def _object_slots(scope: str, found: ObjectFacts) -> dict[str, str]:
    record = found.record
    slots = {"size": record.size, "location": record.location, "centroid": point_text(record.centroid)}
    if found.aspect is not None and found.fill is not None:
        slots["shape"] = shape_word(found.aspect, found.fill)
    return {f"{scope}_{name}": value for name, value in slots.items()}


def _pick(templates: Sequence[str], slots: Mapping[str, str], rng: np.random.Generator) -> str:
    """One of the templates whose every slot has a value, filled."""
    usable = [
        t for t in templates if all(name is None or name in slots for _, name, _, _ in string.Formatter().parse(t))
    ]
    return usable[int(rng.integers(len(usable)))].format(**slots)


def corpus(nouns: Sequence[str], rng: np.random.Generator, count: int = 200) -> list[str]:
    """Texts of every template with every noun and random facts, for training a tokenizer.

    Args:
        nouns: Class nouns; at least one.
        rng: Decides all.
        count: Random label maps; each gives a brief and a full answer for up to four nouns.
    """
    size = 60
    texts = [short_answer(noun) for noun in nouns]
    texts += [template.format(noun=noun) for noun in nouns for template in ABSENT]
    for _ in range(count):
        chosen = [nouns[int(i)] for i in rng.permutation(len(nouns))[:4]]
        labels: npt.NDArray[np.int64] = np.zeros((size, size), np.int64)
        for _ in range(int(rng.integers(1, 14))):
            extent = rng.integers(2, 40, 2)
            y, x = (int(rng.integers(0, size - 1)) for _ in range(2))
            labels[y : y + extent[0], x : x + extent[1]] = int(rng.integers(len(chosen)))
        reflectance = rng.uniform(0.01, 0.4, (10, 1, 1)).astype(np.float32) + np.zeros((10, size, size), np.float32)
        masks = {noun: labels == k for k, noun in enumerate(chosen)}
        for noun, mask in masks.items():
            others = {name: other for name, other in masks.items() if name != noun}
            texts.append(describe(noun, mask, rng, form="brief"))
            texts.append(describe(noun, mask, rng, form="full", reflectance=reflectance, others=others))
    return texts
