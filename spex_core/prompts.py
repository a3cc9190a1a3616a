"""The text of SPEX: questions with spectral attributes, the run-time answer, and the chat template around them.

Questions come from imagery alone. The short answer that conditions masks at run time says nothing but the class;
answers that describe labels exist for training only (:mod:`spex_core.answers`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from spex_core.indices import INDEX_LABELS
from spex_core.priors import AttributeRecord

SYSTEM_PREFIX = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
"""Everything before the image tokens: the same for every question, so its key/value cache is shared."""
USER_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"
END_OF_TURN = "<|im_end|>"
"""Ends an answer; the token that stops decoding."""
PUBLISHED_DIGITS = 3
"""Decimals of coordinates in the published prompts."""


def attribute_text(record: AttributeRecord, fields: Sequence[str], digits: int = PUBLISHED_DIGITS) -> str:
    """One record as the published dictionary text, with the chosen fields.

    Args:
        record: The object.
        fields: Of ``size``, ``centroid``, ``location``, ``box`` (published), ``indices`` and ``reflectance`` (means
            over the object, which the published data lack).
        digits: Decimals; trailing zeros are dropped. Fewer make shorter prompts: each digit is a token.
    """

    def number(value: float) -> str:
        return repr(round(float(value) + 0.0, digits))

    parts = []
    if "size" in fields:
        parts.append(f"'Size of area': '{record.size}'")
    if "centroid" in fields:
        parts.append(f"'Centroid': [{number(record.centroid[0])}, {number(record.centroid[1])}]")
    if "location" in fields:
        parts.append(f"'Location': '{record.location}'")
    if "box" in fields:
        corners = ", ".join(f"[{number(x)}, {number(y)}]" for x, y in record.box)
        parts.append(f"'Bounding box': [{corners}]")
    if "indices" in fields:
        parts += [f"'{INDEX_LABELS[name]}': {number(value)}" for name, value in record.indices.items()]
    if "reflectance" in fields and record.reflectance:
        bands = ", ".join(f"'{band}': {number(value)}" for band, value in record.reflectance.items())
        parts.append(f"'Reflectance': {{{bands}}}")
    return "{" + ", ".join(parts) + "}"


def question_text(
    noun: str, records: Sequence[AttributeRecord], fields: Sequence[str], digits: int = PUBLISHED_DIGITS
) -> str:
    """The published question for one class; without records it says so by an empty list."""
    return question_around(noun, ", ".join(attribute_text(record, fields, digits) for record in records))


def question_around(noun: str, attributes: str) -> str:
    """The published question for one class around attributes that are text already."""
    return (
        f"\nBased on the provided image and the attributes of the {noun} regions, "
        f"please provide a detailed description of them:[{attributes}]"
    )


def short_answer(noun: str) -> str:
    """The teacher-forced answer that conditions masks when nothing is to be explained."""
    return f"The {noun} regions are outlined."


def whole_sentences(text: str) -> str:
    """A text that was cut at its longest length, up to its last whole sentence; unchanged if it has none."""
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s|$)", text)]
    return text[: ends[-1]] if ends else text
