"""What a search gave, beside what the servers count: the numbers that a plan shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Completeness:
    """Whether a search gave all that there is."""

    received: int = 0
    """Different items that the server gave."""
    counted: int | None = None
    """Items that the server itself counts; None where it does not say."""
    notes: tuple[str, ...] = ()
    """What was asked otherwise, or cannot be known."""


def together(parts: Sequence[Completeness]) -> Completeness:
    """Of several searches; what is not known of one is not known of all. Static catalogs count nothing."""
    asked = [part for part in parts if part != Completeness()]
    counts = [part.counted for part in asked]
    return Completeness(
        received=sum(part.received for part in asked),
        counted=None if not counts or None in counts else sum(count or 0 for count in counts),
        notes=tuple(dict.fromkeys(note for part in asked for note in part.notes)),
    )
