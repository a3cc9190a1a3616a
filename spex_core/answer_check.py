"""Which statements of a text the labels support: texts are taken apart by the grammar of the training answers.

Tolerances are those of the words: "about 30 percent" is a reading of 25 as well as of 35. They are stated here, in one
place, and hold for every row of an evaluation alike.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from spex_core.answer_templates import (
    ABSENT,
    AMOUNTS,
    COMPACT_FILL,
    COUNT_WORDS,
    COUNTS,
    ELONGATED_ASPECT,
    NEIGHBOURS,
    NO_CLAIM,
    OBJECTS,
    PARTS,
    SINGLE,
    SLOT_PATTERNS,
    SPECTRA,
    amount_text,
    index_text,
    part_text,
    point_text,
    shape_word,
)  # fmt: skip
from spex_core.indices import INDEX_LABELS
from spex_core.label_facts import CELLS, BoolArray, ClassFacts, FloatArray, ObjectFacts, class_facts
from spex_core.priors import SIZE_WORDS

ABSENT_SHARE = 0.001
"""A class below this share of the image may be called absent."""
PERCENT_TOLERANCE = (1.0, 0.15)
"""A percentage may be off by 1 point and 15 % of the stated number."""
PART_TOLERANCE = 0.05
"""Share of the image by which the words of amounts may overlap."""
LARGEST_AREA = 0.8
"""An object this large against the largest may be called the largest; a cell this full, the main one."""
SIZE_TOLERANCE = 1.33
"""Factor on the bounds of the size words."""
POINT_TOLERANCE = 0.1
"""A coordinate may be off by this share of the image side; a location word as if half of it had moved the object."""
INDEX_TOLERANCE = 0.1
"""An index value may be off by this."""
BORDER_SHARE = 0.5
"""A neighbour with this share of the longest border may be called the most bordering."""
_EPSILON = 1e-6


@dataclass(frozen=True)
class Claim:
    """One statement of a text."""

    text: str
    """The sentence it stands in."""
    kind: str
    """What is stated, e.g. ``"amount"``, ``"largest_location"``; ``"unparsed"`` for what cannot be read."""
    value: str
    """As stated."""
    measured: str
    """What the labels say, in the same form; empty where there is nothing to measure."""
    supported: bool


def check(
    text: str,
    noun: str,
    mask: BoolArray,
    reflectance: FloatArray | None = None,
    others: Mapping[str, BoolArray] | None = None,
    observed: BoolArray | None = None,
) -> list[Claim]:
    """Finds the claims of a text about one class and holds each against the labels.

    A sentence that is no sentence of the grammar, is about another noun, or was cut off, counts as one claim
    that is not supported; so does a claim that nothing was given to check with. A sentence said twice counts once. The
    fixed answer of ``explain="none"`` claims nothing.

    Args:
        text: As written by the model.
        noun: Class noun that was asked for.
        mask: bool ``[H, W]``, pixels labelled as the class.
        reflectance: Surface reflectance, float32 ``[10, H, W]``, to check index values.
        others: Masks of the other classes by noun, to check neighbours.
        observed: bool ``[H, W]``, pixels that have a class at all; default: every one.

    Returns:
        Claims in the order of the text.
    """
    return check_facts(text, noun, class_facts(mask, reflectance, others, observed))


def check_facts(text: str, noun: str, facts: ClassFacts) -> list[Claim]:
    """:func:`check` against facts that are measured already."""
    claims: list[Claim] = []
    seen = set()
    for sentence, slots in _sentences(text, noun):
        if sentence in seen:
            continue
        seen.add(sentence)
        claims += (
            [Claim(sentence, "unparsed", sentence, "", False)] if slots is None else _judge(sentence, slots, facts)
        )
    return claims


def supported_share(claims: Sequence[Claim]) -> float:
    """Share of claims that are supported, 0..1; NaN without claims."""
    return sum(claim.supported for claim in claims) / len(claims) if claims else math.nan


@lru_cache(maxsize=256)
def _grammar(noun: str) -> tuple[tuple[bool, re.Pattern[str]], ...]:
    """Each template as a pattern with its slots as groups; first whether it says that the class is absent."""
    patterns = []
    positive = (*NO_CLAIM, *AMOUNTS, *COUNTS, *SINGLE, *NEIGHBOURS, *SPECTRA, *(t for s in OBJECTS.values() for t in s))
    for template in (*ABSENT, *positive):
        pattern = ""
        for literal, slot, _, _ in string.Formatter().parse(template):
            pattern += re.escape(literal)
            if slot == "noun":
                pattern += re.escape(noun)
            elif slot is not None:
                pattern += f"(?P<{slot}>{SLOT_PATTERNS[slot.split('_')[-1]]})"
        patterns.append((template in ABSENT, re.compile(pattern + r"(?=\s|$)")))
    return tuple(patterns)


def _sentences(text: str, noun: str) -> list[tuple[str, dict[str, str] | None]]:
    """Sentences with the values of their slots; None for what the grammar cannot read."""
    found: list[tuple[str, dict[str, str] | None]] = []
    position, text = 0, " ".join(text.split())
    while position < len(text):
        matches = [(absent, m) for absent, p in _grammar(noun) if (m := p.match(text, position))]
        if matches:
            absent, match = max(matches, key=lambda pair: pair[1].end())
            found.append((match.group(), {"absent": "none"} if absent else match.groupdict()))
            end = match.end()
        else:
            stop = re.compile(r"[.!?](?=\s|$)").search(text, position)
            end = stop.end() if stop else len(text)
            found.append((text[position:end], None))
        position = end + 1  # the space
    return found


def _judge(sentence: str, slots: Mapping[str, str], facts: ClassFacts) -> list[Claim]:
    claims = []
    candidates = {
        "largest": [o for o in facts.objects if o.record.share >= LARGEST_AREA * facts.objects[0].record.share],
        "other": list(facts.objects[1:]),
        "any": list(facts.objects),
    }
    # The point comes first: it tells which object a sentence is about.
    for slot, value in sorted(slots.items(), key=lambda item: not item[0].endswith("centroid")):
        scope, _, name = slot.partition("_")
        if scope in candidates:
            fits, words = _OBJECT_CLAIMS[name]
            measured = words(candidates[scope][0]) if candidates[scope] else "none"
            fitting = [o for o in candidates[scope] if fits(value, o)]
            if fitting:
                candidates[scope] = fitting
            claims.append(Claim(sentence, slot, value, measured, bool(fitting)))
        else:
            kind = name or scope if scope == "second" else scope.lower()
            measured, supported = _CLASS_CLAIMS[kind](value, facts)
            claims.append(Claim(sentence, kind, value, measured, supported and (facts.share > 0 or kind == "absent")))
    order = list(slots)
    return sorted(claims, key=lambda claim: order.index(claim.kind) if claim.kind in order else len(order))


# -- the class as a whole: (stated words, facts) -> (measured words, whether they agree) ------------------------------


def _absent(_: str, facts: ClassFacts) -> tuple[str, bool]:
    return ("none" if facts.share == 0 else amount_text(facts.share)), facts.share < ABSENT_SHARE


def _amount(value: str, facts: ClassFacts) -> tuple[str, bool]:
    percent = 100 * facts.share
    stated = int("".join(filter(str.isdigit, value)))
    fixed, relative = PERCENT_TOLERANCE
    if value.lower().startswith("less"):
        return amount_text(facts.share), percent < stated + fixed
    return amount_text(facts.share), abs(percent - stated) <= fixed + relative * stated + _EPSILON


def _part(value: str, facts: ClassFacts) -> tuple[str, bool]:
    words = [word for _, word in PARTS]
    place = words.index(value)
    low = PARTS[place - 1][0] if place else 0.0
    near = low - PART_TOLERANCE <= facts.share <= PARTS[place][0] + PART_TOLERANCE
    return part_text(facts.share), near


def _count(value: str, facts: ClassFacts) -> tuple[str, bool]:
    words = [word for _, word in COUNT_WORDS]
    place = words.index(value)
    low, high = (COUNT_WORDS[place - 1][0] + 1 if place else 1), COUNT_WORDS[place][0]
    slack = 0 if high <= 2 else max(1, low // 5)  # "several" and "many" are no sharp words
    return str(facts.count), low - slack <= facts.count <= high + slack


def _main(value: str, facts: ClassFacts) -> tuple[str, bool]:
    fullest = max(facts.cells)
    return CELLS[facts.cells.index(fullest)], facts.cells[CELLS.index(value)] >= LARGEST_AREA * fullest


def _neighbour(value: str, facts: ClassFacts) -> tuple[str, bool]:
    if not facts.borders:
        return "", False
    longest = max(facts.borders, key=lambda other: facts.borders[other])
    return longest, facts.borders.get(value, 0) >= BORDER_SHARE * facts.borders[longest]


def _index(value: str, facts: ClassFacts) -> tuple[str, bool]:
    label, _, stated = value.partition(" is about ")
    name = next(name for name, known in INDEX_LABELS.items() if known == label)
    if name not in facts.indices:
        return "", False
    measured = facts.indices[name]
    return index_text(label, measured), abs(float(stated) - measured) <= INDEX_TOLERANCE + _EPSILON


_CLASS_CLAIMS: dict[str, Callable[[str, ClassFacts], tuple[str, bool]]] = {
    "absent": _absent,
    "amount": _amount,
    "part": _part,
    "count": _count,
    "main": _main,
    "neighbour": _neighbour,
    "index": _index,
}


# -- one object: (stated words, object) -> whether they agree; object -> measured words -------------------------------


def _size_fits(value: str, found: ObjectFacts) -> bool:
    words = [word for _, word in SIZE_WORDS]
    place = words.index(value)
    low = SIZE_WORDS[place - 1][0] if place else 0.0
    return low / SIZE_TOLERANCE <= found.record.share <= SIZE_WORDS[place][0] * SIZE_TOLERANCE


def _location_fits(value: str, found: ObjectFacts) -> bool:
    row, column = divmod(CELLS.index(value), 3)
    slack = POINT_TOLERANCE / 2
    x, y = found.record.centroid
    return all(cell / 3 - slack <= v <= (cell + 1) / 3 + slack for cell, v in ((column, x), (row, y)))


def _centroid_fits(value: str, found: ObjectFacts) -> bool:
    stated = [float(v) for v in value.split(", ")]
    return all(abs(s - v) <= POINT_TOLERANCE + _EPSILON for s, v in zip(stated, found.record.centroid, strict=True))


def _shape_fits(value: str, found: ObjectFacts) -> bool:
    if found.aspect is None or found.fill is None:
        return False
    if value == "elongated":
        return found.aspect >= 0.8 * ELONGATED_ASPECT
    near = found.fill >= COMPACT_FILL - 0.1 if value == "compact" else found.fill <= COMPACT_FILL + 0.1
    return near and found.aspect <= 1.2 * ELONGATED_ASPECT


def _shape_words(found: ObjectFacts) -> str:
    return "" if found.aspect is None or found.fill is None else shape_word(found.aspect, found.fill)


_OBJECT_CLAIMS: dict[str, tuple[Callable[[str, ObjectFacts], bool], Callable[[ObjectFacts], str]]] = {
    "size": (_size_fits, lambda found: found.record.size),
    "location": (_location_fits, lambda found: found.record.location),
    "centroid": (_centroid_fits, lambda found: point_text(found.record.centroid)),
    "shape": (_shape_fits, _shape_words),
}
