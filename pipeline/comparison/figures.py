"""A figure of a published protocol, beside what others published."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ProtocolFigure:
    """One metric of a data set's protocol beside what others published."""

    metric: str
    measured: float
    """As the protocol writes it (percent or share)."""
    published: tuple[tuple[str, float, str], ...]
    """Who, figure, source."""
