"""Decoding in which numbers and names can only be quoted: what follows certain words is one of the values given.

A small language model copies badly: it reads "0.43, 0.57" in its question and writes "0.4, 0.2". Where the text to come
is known to be a value that stands in the question, tokens that would begin another one are passed over, and the next
best is taken. Which sentence is said, in which words, and which of several values, stays the model's.

The rule is one of bytes, not of tokens: a value may be cut into tokens in any way, and a token may hold the end of the
lead and the beginning of the value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

_MORE_NUMBER = re.compile(rb"\d|\.\d")
"""What makes another number of a value that ends in a digit."""


@dataclass(frozen=True)
class Quotes:
    """Which values may follow which words.

    Where several leads end at one place the longest counts. A lead without values may not be written at all.
    """

    leads: Mapping[str, tuple[str, ...]]
    openings: tuple[str, ...] = ()
    """A text begins with one of these, or if there are none, anyhow."""

    def allows(self, text: bytes, *, known: int = 0, ended: bool = False) -> bool:
        """Whether a text keeps to the rule as far as it goes.

        Args:
            text: UTF-8.
            known: So many bytes of it are known to.
            ended: Nothing comes after it.
        """
        begun: dict[int, tuple[bytes, ...]] = {0: self._openings} if self._openings else {}
        first = max(0, known - self._reach)  # what is whole before this cannot become wrong
        for lead, values in self._leads:  # the longest comes last and stays
            at = text.find(lead, max(0, first - len(lead)))
            while at >= 0:
                begun[at + len(lead)] = values
                at = text.find(lead, at + 1)
        return all(any(_begins(text[at:], value, ended) for value in values) for at, values in begun.items())

    @cached_property
    def _reach(self) -> int:
        """Bytes of the longest value, and of what may still make another one of it."""
        return max((len(value.encode()) for values in self.leads.values() for value in values), default=0) + 2

    @cached_property
    def _openings(self) -> tuple[bytes, ...]:
        return tuple(opening.encode() for opening in self.openings)

    @cached_property
    def _leads(self) -> tuple[tuple[bytes, tuple[bytes, ...]], ...]:
        shortest_first = sorted(self.leads.items(), key=lambda found: len(found[0]))
        return tuple((lead.encode(), tuple(value.encode() for value in values)) for lead, values in shortest_first)


def _begins(rest: bytes, value: bytes, ended: bool) -> bool:
    """Whether a text begins with a value, or may still come to."""
    if len(rest) < len(value):
        return not ended and value.startswith(rest)
    return rest.startswith(value) and not (value[-1:].isdigit() and _MORE_NUMBER.match(rest, len(value)))
