"""Questions about a class of a map that is drawn already: what is measured of it, and its objects, as attributes.

The records are SPIE's (size word, centroid, location word, rotated box, indices), of the map's own objects. Before them
stands one of the class as a whole, in the words of :mod:`spex_core.answer_templates`: objects alone do not add up to
a share. Nothing here is read from labels: at run time the map is the model's, in training it is one with errors.
"""

from __future__ import annotations

from spex_core.answer_templates import amount_text, count_word, shape_word
from spex_core.indices import INDEX_LABELS
from spex_core.label_facts import CELLS, EVIDENCE_INDICES, ClassFacts
from spex_core.prompts import attribute_text, question_around

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


def _whole(facts: ClassFacts) -> str:
    if facts.share == 0:
        return "{'Area': 'none'}"
    parts = [f"'Area': '{amount_text(facts.share)}'"]
    if facts.count:
        parts.append(f"'Regions': '{count_word(facts.count)}'")
    parts.append(f"'Location': '{CELLS[max(range(len(CELLS)), key=lambda i: facts.cells[i])]}'")
    if facts.borders:
        parts.append(f"'Beside': '{max(facts.borders, key=lambda other: facts.borders[other])}'")
    parts += [
        f"'{INDEX_LABELS[n]}': {round(facts.indices[n], 1) + 0.0:.1f}" for n in EVIDENCE_INDICES if n in facts.indices
    ]
    return "{" + ", ".join(parts) + "}"
