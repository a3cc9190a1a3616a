"""The published SPEX procedure, number for number, on a converted checkpoint (``official_numerics=True``).

What a map needs is :meth:`SpexForLandCover.predict`; this module answers "is it the same model?" and "what would the
published code say?". Quirks that are reproduced, because the published weights were made with them: softmax taken twice
in token-to-image attention (``double_softmax``), masks thresholded before they are resized, training that pools the
chat-format tokens around the answer while inference pools the answer without its last token, a literal ``\\n`` in the
question, and an ``image_newline`` token in training only.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import DynamicCache

from spex_core.decoding import DecodingRule
from spex_core.errors import ModelInputError
from spex_core.losses import published_dice_loss
from spex_core.modeling import SpexForLandCover
from spex_core.prompts import SYSTEM_PREFIX, USER_SUFFIX
from spex_core.published import ANSWER_TOKENS

IMAGE_ID = -200
"""Stands for the image in published token ids."""
IGNORED = -100
IMAGE_PLACE = "<image>"
BCE_WEIGHT = 2.0


@dataclass(frozen=True)
class SplicedPrompts:
    """Prompts with image tokens in place, right-padded to the longest."""

    embeddings: Tensor
    """float ``[B, T, hidden]``, zero where padded."""
    attention_mask: Tensor
    """bool ``[B, T]``."""
    labels: Tensor
    """int64 ``[B, T]``, -100 at image tokens and padding."""


@dataclass(frozen=True)
class PublishedLosses:
    """The published training objective: total = ce + bce + dice."""

    total: Tensor
    ce: Tensor
    bce: Tensor
    """Twice the mean binary cross-entropy."""
    dice: Tensor
    mask_logits: Tensor
    """float ``[B, H, W]`` at the size of the image."""


@dataclass(frozen=True)
class PublishedMask:
    """What the published inference yields for one image and question."""

    token_ids: Tensor
    """int64 ``[N]``: the answer, with its end token unless it was cut."""
    answer_states: Tensor
    """float ``[max(N - 1, 1), hidden]``: what conditions the mask."""
    logits: Tensor
    """float ``[h, w]`` at stride 4."""
    mask: Tensor
    """float ``[H, W]`` in 0..1 with grey edges: thresholded at stride 4, then resized."""


def splice(
    model: SpexForLandCover, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, image_tokens: Tensor
) -> SplicedPrompts:
    """Puts projected image tokens in the place of the one :data:`IMAGE_ID` of every row.

    Args:
        model: Its token embeddings are used.
        input_ids: int64 ``[B, S]`` with :data:`IMAGE_ID`, right-padded.
        attention_mask: bool ``[B, S]``, False at padding.
        labels: int64 ``[B, S]``, -100 where nothing is to be learnt.
        image_tokens: float ``[B, I, hidden]``.

    Raises:
        ModelInputError: A row has not exactly one image.
    """
    embed = model.language_model.embed_tokens
    rows: list[tuple[Tensor, Tensor]] = []
    for ids, kept, row_labels, image in zip(input_ids, attention_mask.bool(), labels, image_tokens, strict=True):
        ids, row_labels = ids[kept], row_labels[kept]
        places = (ids == IMAGE_ID).nonzero().flatten().tolist()
        if len(places) != 1:
            raise ModelInputError(f"a published prompt holds one image ({IMAGE_ID}), this one holds {len(places)}")
        before, after = slice(0, places[0]), slice(places[0] + 1, None)
        embedded = torch.cat([embed(ids[before]), image, embed(ids[after])])
        spread = torch.cat([row_labels[before], row_labels.new_full((len(image),), IGNORED), row_labels[after]])
        limit = model.config.prompt_limit
        rows.append((embedded[:limit], spread[:limit]))
    length = max(len(spread) for _, spread in rows)
    return SplicedPrompts(
        embeddings=torch.stack([F.pad(e, (0, 0, 0, length - len(e))) for e, _ in rows]),
        attention_mask=torch.stack([torch.arange(length, device=s.device) < len(s) for _, s in rows]),
        labels=torch.stack([F.pad(s, (0, length - len(s)), value=IGNORED) for _, s in rows]),
    )


def training_labels(input_ids: Tensor, *, start_id: int, end_id: int, newline_id: int, assistant_id: int) -> Tensor:
    """Published labels of one conversation: format tokens everywhere, and the assistant's turns whole.

    Args:
        input_ids: int64 ``[S]`` in the published chat format, :data:`IMAGE_ID` for the image.
        start_id: Token ``<|im_start|>``.
        end_id: Token ``<|im_end|>``.
        newline_id: Token of a line break.
        assistant_id: Token ``assistant``, right after the start token of an answer.
    """
    fixed = torch.tensor([start_id, end_id, newline_id], device=input_ids.device)
    labels = torch.where(torch.isin(input_ids, fixed), input_ids, IGNORED)
    ids = input_ids.tolist()
    starts = [*(place for place, token in enumerate(ids) if token == start_id), len(ids)]
    for begin, end in pairwise(starts):
        if ids[begin + 1 : begin + 2] == [assistant_id]:
            labels[begin:end] = input_ids[begin:end]
    return labels


def pooled_span(labels: Tensor) -> slice:
    """The span whose states condition the mask in published training: the last run of labels that are not -100.

    It starts at the user's closing ``<|im_end|>``, so it holds format tokens that inference does not pool.

    Raises:
        ModelInputError: Nothing is labelled.
    """
    labelled = (labels != IGNORED).nonzero().flatten().tolist()
    if not labelled:
        raise ModelInputError("nothing is labelled: there is no answer to condition a mask on")
    start = labelled[-1]
    while start > 0 and labels[start - 1] != IGNORED:
        start -= 1
    return slice(start, labelled[-1] + 1)


def published_losses(
    model: SpexForLandCover,
    pixel_values: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor,
    labels: Tensor,
    target: Tensor,
) -> PublishedLosses:
    """The published training forward: one question and one mask per image.

    Args:
        model: Any SPEX model; dropout follows its training mode.
        pixel_values: float ``[B, C, H, W]``.
        input_ids: int64 ``[B, S]``; see :func:`splice`.
        attention_mask: bool ``[B, S]``.
        labels: int64 ``[B, S]``; see :func:`training_labels`.
        target: ``[B, H, W]`` in {0, 1}.
    """
    vision = model.encode_image(pixel_values)
    assert vision.image_tokens is not None
    prompts = splice(model, input_ids, attention_mask, labels, vision.image_tokens)
    states = model.language_model(
        inputs_embeds=prompts.embeddings, attention_mask=prompts.attention_mask
    ).last_hidden_state
    predicts = prompts.labels[:, 1:] != IGNORED
    ce = F.cross_entropy(model.text_logits(states[:, :-1][predicts]), prompts.labels[:, 1:][predicts])
    pooled = torch.zeros_like(prompts.attention_mask)
    for row, row_labels in enumerate(prompts.labels):
        pooled[row, pooled_span(row_labels)] = True
    mask_prompts = model.condensation(states, pooled).unflatten(0, (-1, 1))
    low = model.mask_decoder(vision.image_embedding, mask_prompts, vision.detail)
    logits = F.interpolate(low, pixel_values.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    truth = target.to(logits.dtype)
    bce = BCE_WEIGHT * F.binary_cross_entropy_with_logits(logits, truth)
    dice = published_dice_loss(logits.flatten(1), truth.flatten(1))
    return PublishedLosses(total=ce + bce + dice, ce=ce, bce=bce, dice=dice, mask_logits=logits)


def freeze_as_published(model: SpexForLandCover) -> list[str]:
    """Leaves to train what the released recipe trains: encoder, neck, condensation and mask decoder.

    Language model and projector are frozen; the text loss still reaches the encoder through them.

    Returns:
        Names of the weights that are trained.
    """
    frozen = ("language_model.", "projector.", "lm_head.", "image_newline")
    trained = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
        if parameter.requires_grad:
            trained.append(name)
    return trained


def prompt_ids(model: SpexForLandCover, question: str) -> Tensor:
    """Token ids int64 ``[S]`` of a question in the published template; ``<image>`` is put first if it is not there.

    Raises:
        ModelInputError: The model has no processor.
    """
    if model.processor is None:
        raise ModelInputError("this model has no tokenizer; give token ids instead of text")
    tokenizer = model.processor.tokenizer
    text = SYSTEM_PREFIX + (question if IMAGE_PLACE in question else IMAGE_PLACE + question) + USER_SUFFIX
    ids: list[int] = []
    for index, piece in enumerate(text.split(IMAGE_PLACE)):
        ids += [IMAGE_ID] * (index > 0) + list(tokenizer(piece, add_special_tokens=False)["input_ids"])
    return torch.tensor(ids)


@torch.no_grad()
def published_mask(
    model: SpexForLandCover,
    pixel_values: Tensor,
    input_ids: Tensor,
    *,
    max_new_tokens: int = ANSWER_TOKENS,
    decoding: DecodingRule | None = None,
) -> PublishedMask:
    """The published inference for one image and question: greedy answer, then the mask its states condition.

    An answer of one token pools the last prompt state (the published code fails there).

    Args:
        model: A SPEX model.
        pixel_values: float ``[C, H, W]``.
        input_ids: int64 ``[S]``; see :func:`prompt_ids`.
        max_new_tokens: Longest answer.
        decoding: End tokens and repetition penalty; default: the checkpoint's.

    Raises:
        ModelInputError: No end token is known, or the prompt holds not exactly one image.
    """
    rule = decoding or model.decoding
    if rule is None:
        raise ModelInputError("no end token is known: the checkpoint has no generation_config.json; give decoding")
    vision = model.encode_image(pixel_values[None])
    assert vision.image_tokens is not None
    rows = input_ids[None].to(model.device)
    everything = torch.ones_like(rows, dtype=torch.bool)
    inputs = splice(model, rows, everything, torch.full_like(rows, IGNORED), vision.image_tokens).embeddings
    cache = DynamicCache(config=model.config.text)
    written = rows.new_empty(1, 0)
    kept: list[Tensor] = []
    while True:
        state = model.language_model(inputs_embeds=inputs, past_key_values=cache, use_cache=True).last_hidden_state[
            :, -1
        ]
        kept.append(state)
        written = torch.cat([written, rule.choose(model.text_logits(state), written)[:, None]], dim=1)
        if written.shape[1] >= max_new_tokens or rule.ends(written[0, -1]):
            break
        inputs = model.language_model.embed_tokens(written[:, -1:])
    # kept[i] is the state that chose token i: the prompt's last, then those of tokens 0 .. N-2.
    states = torch.cat(kept[1:] or kept)
    pooled = torch.ones(1, len(states), dtype=torch.bool, device=states.device)
    prompts = model.condensation(states[None], pooled)[:, None]
    logits = model.mask_decoder(vision.image_embedding, prompts, vision.detail)
    hard = (logits > 0).to(logits.dtype)
    mask = F.interpolate(hard, pixel_values.shape[-2:], mode="bilinear", align_corners=False)
    return PublishedMask(token_ids=written[0], answer_states=states, logits=logits[0, 0], mask=mask[0, 0])
