"""The sentences of training answers, and how numbers and words in them are rounded and matched.

One table serves both ways: :mod:`spex_core.answers` fills the slots, :mod:`spex_core.answer_check` reads them back.
Slots of an object are ``{scope}_{property}`` with scope ``largest``, ``other`` (not the largest) or ``any``.
"""

from __future__ import annotations

from spex_core.indices import INDEX_LABELS
from spex_core.label_facts import CELLS
from spex_core.priors import SIZE_WORDS

NO_CLAIM: tuple[str, ...] = ("The {noun} regions are outlined.",)
"""The run-time answer: it claims nothing."""
ABSENT: tuple[str, ...] = (
    "There is no {noun} in this image.",
    "No {noun} regions are found in this image.",
    "This image shows no {noun}.",
    "Nothing here is {noun}.",
    "Regions of {noun} are absent from this image.",
)
AMOUNTS: tuple[str, ...] = (
    "The {noun} regions cover {amount} of this image.",
    "The {noun} regions cover {amount} of this image, the largest at {largest_location}.",
    "The {noun} regions cover {amount} of this image, mainly at {main}.",
    "The {noun} regions take up {amount} of this image; the largest is {largest_size} and {largest_shape}.",
    "{Amount} of this image belongs to {noun} regions, mostly at {main}.",
    "The {noun} regions make up {part} of this image, the largest at {largest_location}.",
    "The {noun} regions make up {part} of this image, mainly at {main}.",
    "Regions of {noun} cover {amount} of this image, mainly at {main}.",
    "Here {noun} regions take {amount} of the ground, mostly at {main}.",
    "About the {noun} regions: they cover {amount} of this image, the largest at {largest_location}.",
)
COUNTS: tuple[str, ...] = (
    "There are {count} {noun} regions over {amount} of this image, mainly at {main}.",
    "This image shows {count} {noun} regions, the largest {largest_size}, at {largest_location}.",
    "There are {count} regions of {noun} here, on {amount} of this image.",
)
SINGLE: tuple[str, ...] = (
    "There is {count} {noun} region over {amount} of this image, at {largest_location}.",
    "This image shows {count} {noun} region, {largest_size}, at {largest_location}.",
)
"""As :data:`COUNTS`, for one object."""
OBJECTS: dict[str, tuple[str, ...]] = {
    "largest": (
        "The largest is {largest_size}, at {largest_location}, centred on {largest_centroid}.",
        "The largest, {largest_size} and {largest_shape}, is centred on {largest_centroid}.",
        "Its largest part is {largest_shape} and lies at {largest_location}.",
        "The largest of them lies at {largest_location} and is {largest_size}.",
    ),
    "other": (
        "Another is {other_size}, at {other_location}, centred on {other_centroid}.",
        "Another {other_size} one lies at {other_location}.",
        "Another lies at {other_location}, centred on {other_centroid}.",
    ),
    "any": ("One is {any_size}, at {any_location}, centred on {any_centroid}.",),
}
"""``any`` is read, not written: checkpoints of version 0.1 say it."""
NEIGHBOURS: tuple[str, ...] = (
    "They mostly border {neighbour} regions.",
    "Most of their border is with {neighbour} regions.",
    "Beside them lie mostly {neighbour} regions.",
)
SPECTRA: tuple[str, ...] = (
    "Their mean {index}.",
    "Their mean {index} and their mean {second_index}.",
    "Measured over them, the mean {index} and the mean {second_index}.",
    "On average their {index}.",
)

LESS_LEAD, AMOUNT_LEAD, POINT_LEAD = "ess than ", "bout ", "centred on "
"""What stands before an amount, however the sentence begins, and before a point."""

PARTS: tuple[tuple[float, str], ...] = ((0.05, "a small part"), (0.2, "a part"), (0.5, "a good part"), (0.9, "most"),
                                        (1.01, "almost all"))  # fmt: skip
"""Upper bound of the class's share of the image → words."""
COUNT_WORDS: tuple[tuple[int, str], ...] = ((1, "one"), (2, "two"), (9, "several"), (10**9, "many"))
"""Most objects that a word stands for."""
ELONGATED_ASPECT = 3.0
"""Long side over short side of an object's box from which it is called elongated."""
COMPACT_FILL = 0.7
"""Share of its box from which an object that is not elongated is called compact; below, irregular."""

_NUMBER = r"-?\d\.\d"
SLOT_PATTERNS: dict[str, str] = {
    "amount": r"about \d{1,3} percent|less than 1 percent",
    "Amount": r"About \d{1,3} percent|Less than 1 percent",
    "part": "|".join(word for _, word in PARTS),
    "count": "|".join(word for _, word in COUNT_WORDS),
    "main": "|".join(CELLS),
    "size": "|".join(word for _, word in SIZE_WORDS),
    "location": "|".join(CELLS),
    "centroid": rf"{_NUMBER}, {_NUMBER}",
    "shape": "elongated|compact|irregular",
    "neighbour": r"[^.]+?",
    "index": rf"(?:{'|'.join(INDEX_LABELS.values())}) is about {_NUMBER}",
}
"""What a slot can hold, by its name without the scope."""


def amount_text(share: float) -> str:
    """Share of the image in words and a percentage: rounded to 1 below 10, to 5 above."""
    percent = 100 * share
    if percent < 1:
        return "less than 1 percent"
    return f"about {round(percent) if percent < 10 else 5 * round(percent / 5)} percent"


def part_text(share: float) -> str:
    """Share of the image in words alone, see :data:`PARTS`."""
    return next(word for bound, word in PARTS if share < bound)


def count_word(count: int) -> str:
    """Number of objects, at least one, as a word of :data:`COUNT_WORDS`."""
    return next(word for most, word in COUNT_WORDS if count <= most)


def shape_word(aspect: float, fill: float) -> str:
    """``elongated``, ``compact`` or ``irregular``."""
    if aspect >= ELONGATED_ASPECT:
        return "elongated"
    return "compact" if fill >= COMPACT_FILL else "irregular"


def point_text(point: tuple[float, float]) -> str:
    """x, y with one decimal."""
    return ", ".join(f"{value:.1f}" for value in point)


def named(slot: str, name: str) -> dict[str, tuple[str, ...]]:
    """What stands before the name of a class in sentences that claim something, and the name with what follows it.

    Args:
        slot: ``noun`` or ``neighbour``.
        name: What fills it.
    """
    sentences = (*ABSENT, *AMOUNTS, *COUNTS, *SINGLE, *NEIGHBOURS)
    found: dict[str, list[str]] = {}
    for sentence in sentences:
        before, there, after = sentence.partition(f"{{{slot}}}")
        if there:
            for _, count in COUNT_WORDS if "{count}" in before else [(0, "")]:
                lead = before.replace("{count}", count).rpartition("}")[2]
                found.setdefault(lead, []).append(name + after.partition("{")[0])
    if "The " in found:
        found["The "] += [s.removeprefix("The ").partition("{")[0] for s in OBJECTS["largest"] if s.startswith("The ")]
    for lead in found:
        found[lead] += ["regions of "] if lead.startswith("There are ") and not lead.endswith(" of ") else []
    return {lead: tuple(dict.fromkeys(values)) for lead, values in found.items()}


def openings(noun: str) -> tuple[str, ...]:
    """How an answer about a class may begin: with a sentence that names it."""
    firsts = [s.replace("{noun}", noun) for s in (*ABSENT, *AMOUNTS, *COUNTS, *SINGLE)]
    begun = [first.partition("{")[0] for first in firsts]
    return tuple(dict.fromkeys([*filter(None, begun), "About ", "Less than "]))


def index_lead(label: str) -> str:
    """What stands before the value of an index."""
    return f"{label} is about "


def index_value(value: float) -> str:
    """One decimal, without a negative zero."""
    return f"{round(value, 1) + 0.0:.1f}"


def index_text(label: str, value: float) -> str:
    """An index and its value."""
    return index_lead(label) + index_value(value)
