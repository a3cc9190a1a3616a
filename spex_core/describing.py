"""The stage in which the language model learns to describe, while masks stay what they are.

A language model that learns to write bends its states, and with them the mask prompts that are condensed from them. In
this stage the vision side rests, and every answer is held to the class's anchor: the mask prompts that the bare class
words gave before the stage began. A stage that asks about maps (:mod:`spex_core.map_samples`) uses more words than the
legend has; all of them are read bare in every step as well: a word that means a class is taught its anchor, one that
means none the mean of all. So what an answer says, and whether it
is right, does not move a mask (docs/decisions/0017).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spex_core.losses import LossSum
from spex_core.modeling import SpexForLandCover
from spex_core.processing import TextBatch

LEARNING = ("language_model", "lm_head", "projector", "condensation")
"""Parts of the model that a stage of descriptions changes."""


class PromptAnchor(nn.Module):
    """Mask prompts of the bare class words, ``[K, condensed_tokens, decoder_width]``; zeros until it is set."""

    prompts: Tensor

    def __init__(
        self, model: SpexForLandCover, nouns: Sequence[str], classes: int, means: Sequence[int | None] = ()
    ) -> None:
        """Anchors to be set.

        Args:
            model: Gives their size.
            nouns: Words with an anchor, those of the K classes first.
            classes: K.
            means: For each word the class that it means and whose anchor it gets; None: of no class, its anchor is
                the mean of all. Default: every word has its own.
        """
        super().__init__()
        config = model.config
        self.nouns, self.classes, self.means = tuple(nouns), classes, tuple(means)
        self.register_buffer("prompts", torch.zeros(len(nouns), config.condensed_tokens, config.decoder_width))

    @torch.no_grad()
    def set(self, model: SpexForLandCover) -> None:
        """Takes the prompts that the model gives for the words, without image and attributes."""
        self.prompts.copy_(model.word_prompts(self.nouns))
        own = self.prompts[: self.classes].clone()
        for position, meant in enumerate(self.means):
            self.prompts[position] = own.mean(0) if meant is None else own[meant]

    def of(self, words: Tensor | None) -> Tensor:
        """Anchors of questions about these words; of the classes in order where none are given."""
        return self.prompts[: self.classes] if words is None else self.prompts[words]


class Description(nn.Module):
    """Image and questions → answers and mask prompts; one module, so that data-parallel training can wrap it."""

    def __init__(self, model: SpexForLandCover, bare: TextBatch | None = None) -> None:
        """``bare``: words that are read without an image as well."""
        super().__init__()
        self.model, self.bare = model, bare

    def forward(
        self, reflectance: Tensor, text: TextBatch, gsd_m: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Reads B tiles and B*K questions with answers (tile-major).

        Args:
            reflectance: float ``[B, 10, H, W]``, NaN throughout a missing band.
            text: Questions with answers.
            gsd_m: float ``[B, 10]``.

        Returns:
            Next-token logits ``[answer tokens, vocab]``, their targets, mask prompts
            ``[B, K, condensed_tokens, decoder_width]``, and those of the bare words.
        """
        model = self.model
        with torch.no_grad():
            aggregated = model.aggregator(model.encoder(model.spectral_input(reflectance, gsd_m=gsd_m)))
        image_tokens = model.projector(aggregated.flatten(2).transpose(1, 2))
        cache = model.read_prefix(text.prefix_ids, image_tokens, text.suffix_ids.shape[0] // len(reflectance))
        states = model.read_suffix(text, cache)
        predicts = text.labels[:, 1:] != -100
        prompts = model.condensation(states, text.answer_mask).unflatten(0, (len(reflectance), -1))
        bare = None if self.bare is None else model.bare_prompts(self.bare)
        return model.text_logits(states[:, :-1][predicts]), text.labels[:, 1:][predicts], prompts, bare


def anchor_loss_sum(prompts: Tensor, anchor: PromptAnchor, targets: Tensor | None = None) -> LossSum:
    """Squared distance of mask prompts from their anchors, over the variance of the anchors among classes.

    1 is as wrong as the mean prompt of all classes.

    Args:
        prompts: float ``[B, K, condensed_tokens, decoder_width]``.
        anchor: Anchors of all words.
        targets: Those of these prompts, as :meth:`PromptAnchor.of` gives them; default: of the classes in order.
    """
    own = anchor.of(None)
    spread = (own - own.mean(0)).square().mean().clamp_min(1e-12)
    error = (prompts - (own if targets is None else targets)).square().mean((-2, -1)) / spread
    return error.sum(), torch.as_tensor(error.numel(), device=error.device)
