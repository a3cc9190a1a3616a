"""Errors of the model library: one base class, small subclasses, messages that name the mend."""

from __future__ import annotations

import unicodedata

LONGEST_MESSAGE = 8000
"""Characters of a message; the middle of a longer one is left out."""


def harmless(text: str, longest: int = LONGEST_MESSAGE) -> str:
    """A text that a terminal, a log or a page shows and does not act on.

    Messages repeat ids, paths and values of files that others have written. Whatever is neither printable nor a line
    break becomes its escape (``\\x1b``), so that nothing is coloured, hidden, written backwards or half a character.
    """
    if not text.isprintable():
        text = "".join(c if _is_harmless(c) else c.encode("unicode_escape").decode("ascii") for c in text)
    if len(text) <= longest:
        return text
    head = longest * 3 // 4
    tail = longest // 8
    return f"{text[:head]} [{len(text) - head - tail} characters left out] {text[-tail:]}"


def _is_harmless(character: str) -> bool:
    return character.isprintable() or character in "\n\t" or unicodedata.category(character) == "Zs"


class SpexError(Exception):
    """Base of every error that SPEX raises on purpose (``spex_core`` and ``pipeline`` alike).

    Every subclass must survive pickling, because errors cross Ray processes: construct it from one message, which is
    kept as :func:`harmless` makes it.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(harmless(str(message)))


class LegendError(SpexError):
    """A legend file is missing, malformed or contradicts itself."""


class ModelInputError(SpexError):
    """Pixels, prompts or options that the model cannot take (wrong bands, dtype, NaN, too long)."""


class CheckpointError(SpexError):
    """A checkpoint is missing, truncated, of another layout, or not weights at all."""


class TrainingError(SpexError):
    """A training cannot go on: its loss is not finite, or its batches are too small for its workers."""
