"""The text of SPEX: questions with spectral attributes, answers, and the chat template around them.

Questions come from imagery alone. Answers that describe labels exist for training only; the short answer that
conditions masks at run time says nothing but the class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spex_core.indices import INDEX_LABELS
from spex_core.priors import AttributeRecord, region_attributes

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
    attributes = ", ".join(attribute_text(record, fields, digits) for record in records)
    return (
        f"\nBased on the provided image and the attributes of the {noun} regions, "
        f"please provide a detailed description of them:[{attributes}]"
    )


def short_answer(noun: str) -> str:
    """The teacher-forced answer that conditions masks when nothing is to be explained."""
    return f"The {noun} regions are outlined."


def described_answer(noun: str, mask: npt.NDArray[np.bool_], *, full: bool) -> str:
    """A true description of a labelled mask, for training: how much, where, and if ``full`` how the largest lie.

    Args:
        noun: Class noun.
        mask: bool ``[H, W]``, labelled pixels of the class.
        full: Whether to describe up to three objects, or only the whole.
    """
    records = region_attributes(mask, max_records=3)
    if not records:
        return f"There is no {noun} in this image."
    share = float(mask.mean())
    percent = "less than 1" if share < 0.01 else f"about {round(share * 100)}"
    answer = f"The {noun} regions cover {percent} percent of this image, the largest at {records[0].location}."
    if full:
        answer += " " + " ".join(
            f"One is {record.size}, at {record.location}, centred on {x:.1f}, {y:.1f}."
            for record in records
            for x, y in (record.centroid,)
        )
    return answer
