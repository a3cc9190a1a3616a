"""Questions about a class of a map that is drawn already: what is measured of it, and its objects, as attributes.

The records are SPIE's (size word, centroid, location word, rotated box, indices), of the map's own objects. Before them
stands one of the class as a whole, in the words of :mod:`spex_core.answer_templates`: objects alone do not add up to
a share. Nothing here is read from labels: at run time the map is the model's, in training it is one with errors.

An answer may be held to its question: :func:`map_quotes` has the values that stand in it, as answers write them.
"""

from __future__ import annotations

from spex_core.answer_templates import (
    AMOUNT_LEAD,
    LESS_LEAD,
    POINT_LEAD,
    amount_text,
    count_word,
    index_lead,
    index_value,
    named,
    openings,
    point_text,
    shape_word,
)
from spex_core.indices import INDEX_LABELS
from spex_core.label_facts import CELLS, EVIDENCE_INDICES, ClassFacts
from spex_core.prompts import attribute_text, question_around
from spex_core.quoted_values import Quotes

MAP_RECORDS = 2
"""Objects of a class in a question about a map."""
MAP_DIGITS = 2
"""Decimals of their numbers."""
MAP_FIELDS: tuple[str, ...] = ("size", "centroid", "location", "box")
"""Of their records; indices stand once, for the class as a whole, and the box of the largest alone: its eight numbers
are a third of the question."""


def map_question(noun: str, facts: ClassFacts, *, whole: bool = True, records: int = MAP_RECORDS) -> str:
    """The question about one class of a map.

    Args:
        noun: Class noun.
        facts: Measured on the map.
        whole: Whether what is measured of the class as a whole is given.
        records: Objects that are given, largest first.
    """
    given = [_whole(facts)] if whole else []
    for place, found in enumerate(facts.objects[:records]):
        fields = MAP_FIELDS if place == 0 else tuple(field for field in MAP_FIELDS if field != "box")
        text = attribute_text(found.record, fields, MAP_DIGITS)
        if found.aspect is not None and found.fill is not None:
            text = f"{text[:-1]}, 'Form': '{shape_word(found.aspect, found.fill)}'}}"
        given.append(text)
    return question_around(noun, ", ".join(given))


def map_quotes(noun: str, facts: ClassFacts, records: int = MAP_RECORDS) -> Quotes:
    """What answers to :func:`map_question` may quote: an amount, points, indices, the neighbour, and the class's name.

    Args:
        noun: As there.
        facts: As there.
        records: As there.
    """
    amount = amount_text(facts.share)
    quoted: dict[str, tuple[str, ...]] = {
        lead: (amount.partition(lead)[2],) if lead in amount else () for lead in (AMOUNT_LEAD, LESS_LEAD)
    }
    quoted[AMOUNT_LEAD] += ("the ",)  # so one of the taught sentences begins: "About the ..."
    quoted[POINT_LEAD] = tuple(dict.fromkeys(point_text(found.record.centroid) for found in facts.objects[:records]))
    for name, label in INDEX_LABELS.items():
        known = name in EVIDENCE_INDICES and name in facts.indices
        quoted[index_lead(label)] = (index_value(facts.indices[name]),) if known else ()
    beside = _beside(facts)
    neighbours = named("neighbour", beside or "")
    quoted |= named("noun", noun) | (neighbours if beside else dict.fromkeys(neighbours, ()))
    return Quotes(quoted, openings(noun))


def _beside(facts: ClassFacts) -> str | None:
    return max(facts.borders, key=lambda other: facts.borders[other]) if facts.borders else None


def _whole(facts: ClassFacts) -> str:
    if facts.share == 0:
        return "{'Area': 'none'}"
    parts = [f"'Area': '{amount_text(facts.share)}'"]
    if facts.count:
        parts.append(f"'Regions': '{count_word(facts.count)}'")
    parts.append(f"'Location': '{CELLS[max(range(len(CELLS)), key=lambda i: facts.cells[i])]}'")
    if (beside := _beside(facts)) is not None:
        parts.append(f"'Beside': '{beside}'")
    parts += [f"'{INDEX_LABELS[n]}': {index_value(facts.indices[n])}" for n in EVIDENCE_INDICES if n in facts.indices]
    return "{" + ", ".join(parts) + "}"
