"""Errors of the model library: one base class, small subclasses, messages that name the mend."""

from __future__ import annotations


class SpexError(Exception):
    """Base of every error that SPEX raises on purpose (``spex_core`` and ``pipeline`` alike).

    Every subclass must survive pickling, because errors cross Ray processes: construct it from one message.
    """


class LegendError(SpexError):
    """A legend file is missing, malformed or contradicts itself."""


class ModelInputError(SpexError):
    """Pixels, prompts or options that the model cannot take (wrong bands, dtype, NaN, too long)."""


class CheckpointError(SpexError):
    """A checkpoint is missing, truncated, of another layout, or not weights at all."""


class TrainingError(SpexError):
    """A training cannot go on: its loss is not finite, or its batches are too small for its workers."""
