"""The stage in which the language model learns to describe, while masks stay what they are.

A language model that learns to write bends its states, and with them the mask prompts that are condensed from them. In
this stage the vision side rests, and every answer is held to the class's anchor: the mask prompts that the bare class
words gave before the stage began. So what an answer says, and whether it is right, does not move a mask
(docs/decisions/0017).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spex_core.legend import Legend
from spex_core.losses import LossSum
from spex_core.modeling import SpexForLandCover
from spex_core.processing import TextBatch

LEARNING = ("language_model", "lm_head", "projector", "condensation")
"""Parts of the model that a stage of descriptions changes."""


class PromptAnchor(nn.Module):
    """Mask prompts of the bare class words, ``[K, condensed_tokens, decoder_width]``; zeros until it is set."""

    prompts: Tensor

    def __init__(self, model: SpexForLandCover, classes: int) -> None:
        super().__init__()
        config = model.config
        self.register_buffer("prompts", torch.zeros(classes, config.condensed_tokens, config.decoder_width))

    @torch.no_grad()
    def set(self, model: SpexForLandCover, legend: Legend) -> None:
        """Takes the prompts that the model gives for the classes of a legend, without image and attributes."""
        self.prompts.copy_(model.class_word_prompts(legend))


class Description(nn.Module):
    """Image and questions → answers and mask prompts; one module, so that data-parallel training can wrap it."""

    def __init__(self, model: SpexForLandCover) -> None:
        super().__init__()
        self.model = model

    def forward(self, reflectance: Tensor, text: TextBatch, gsd_m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reads B tiles and B*K questions with answers (tile-major).

        Args:
            reflectance: float ``[B, 10, H, W]``, NaN throughout a missing band.
            text: Questions with answers.
            gsd_m: float ``[B, 10]``.

        Returns:
            Next-token logits ``[answer tokens, vocab]``, their targets, and mask prompts
            ``[B, K, condensed_tokens, decoder_width]``.
        """
        model = self.model
        with torch.no_grad():
            aggregated = model.aggregator(model.encoder(model.spectral_input(reflectance, gsd_m=gsd_m)))
        image_tokens = model.projector(aggregated.flatten(2).transpose(1, 2))
        cache = model.read_prefix(text.prefix_ids, image_tokens, text.suffix_ids.shape[0] // len(reflectance))
        states = model.read_suffix(text, cache)
        predicts = text.labels[:, 1:] != -100
        prompts = model.condensation(states, text.answer_mask).unflatten(0, (len(reflectance), -1))
        return model.text_logits(states[:, :-1][predicts]), text.labels[:, 1:][predicts], prompts


def anchor_loss_sum(prompts: Tensor, anchor: PromptAnchor) -> LossSum:
    """Squared distance of mask prompts from their anchors, over the variance of the anchors among classes.

    1 is as wrong as the mean prompt of all classes.

    Args:
        prompts: float ``[B, K, condensed_tokens, decoder_width]``.
        anchor: Where they belong.
    """
    spread = (anchor.prompts - anchor.prompts.mean(0)).square().mean().clamp_min(1e-12)
    error = (prompts - anchor.prompts).square().mean((2, 3)) / spread
    return error.sum(), torch.as_tensor(error.numel(), device=error.device)
