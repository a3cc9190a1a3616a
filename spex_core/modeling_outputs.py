"""What the passes of a SPEX model return."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.utils.generic import ModelOutput


@dataclass
class SpexOutput(ModelOutput):
    """Training forward."""

    mask_logits: Tensor | None = None
    """float ``[B, K, H, W]`` (``[B, K, H/4, W/4]`` without detail)."""
    text_logits: Tensor | None = None
    """float ``[answer tokens, vocab]``, aligned with ``text_targets``."""
    text_targets: Tensor | None = None
    """int64 ``[answer tokens]``."""


@dataclass
class LandCoverPrediction(ModelOutput):
    """What :meth:`spex_core.SpexForLandCover.predict` returns."""

    scores: Tensor | None = None
    """float ``[B, K, H, W]``: softmax over the K legend classes."""
    texts: list[list[str]] | None = None
    """B x K answers, empty when ``explain="none"``; with ``checked_answers``, what the masks bear out of them."""
    written: list[list[str]] | None = None
    """The same as the model wrote them."""
