"""Training losses: the paper's (cross-entropy + 2 BCE + Dice) and a joint cross-entropy over the legend."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

DICE_SMOOTHING = 1e-3

LossSum = tuple[Tensor, Tensor]
"""Numerator and denominator of a mean, scalars."""


def dice_per_mask(logits: Tensor, targets: Tensor) -> Tensor:
    """Dice loss of each of N masks, squared in the denominator. Both ``[N, P]``, targets 0..1; returns ``[N]``."""
    probability = logits.sigmoid()
    overlap = 2 * (probability * targets).sum(1)
    total = probability.square().sum(1) + targets.square().sum(1) + 2 * DICE_SMOOTHING
    return 1 - overlap / total


def mask_loss_sums(logits: Tensor, targets: Tensor, weight: Tensor) -> dict[str, LossSum]:
    """Losses of class masks against hard or soft targets, as numerators and denominators of means.

    A mean over a batch that several workers share is the sum of their numerators over the sum of their denominators.

    Args:
        logits: float ``[B, K, H, W]``.
        targets: float ``[B, K, H, W]``, class probabilities of each pixel.
        weight: float ``[B, H, W]``; 0 where the pixel has no label.

    Returns:
        ``bce`` and ``dice`` (the paper's, per class) and ``joint`` (softmax cross-entropy over the K classes, because
        the map takes the best class of the whole legend: docs/decisions/0008).
    """
    bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
    joint = -(targets * logits.log_softmax(dim=1)).sum(1)
    masked = targets * weight[:, None]
    present = masked.flatten(2).sum(-1) > 0
    counted = torch.where(weight[:, None] > 0, logits, torch.full_like(logits, -30.0))
    # Dice of an absent class says nothing about overlap; BCE already pushes such masks down.
    dice = dice_per_mask(counted.flatten(2)[present], masked.flatten(2)[present])
    return {
        "bce": ((bce * weight).sum(), weight.sum()),
        "dice": (dice.sum(), present.sum()),
        "joint": ((joint * weight).sum(), weight.sum()),
    }


def text_loss_sum(logits: Tensor, targets: Tensor) -> LossSum:
    """Next-token cross-entropy and number of tokens. ``logits`` ``[N, vocab]``, ``targets`` int64 ``[N]``."""
    total = F.cross_entropy(logits, targets, reduction="sum")
    return total, torch.as_tensor(targets.numel(), device=logits.device)


def published_dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Dice loss as published: each square sum is smoothed by itself, and the mean divides by N + float32's epsilon."""
    probability = logits.sigmoid()
    overlap = 2 * (probability * targets).sum(1)
    total = (probability.square().sum(1) + DICE_SMOOTHING) + (targets.square().sum(1) + DICE_SMOOTHING)
    return (1 - overlap / total).sum() / (len(logits) + torch.finfo(torch.float32).eps)


RARE = 0.01
"""Share of a batch below which a class gains no more weight."""


def class_weights(counts: Tensor, balance: float) -> Tensor:
    """Weight of a pixel by the rarity of its class.

    Args:
        counts: float ``[K]``, labelled pixels of each class.
        balance: 0 weighs all pixels alike, 1 nearly all classes alike.

    Returns:
        float ``[K]``; the weights of all pixels add up to their number.
    """
    shares = counts / counts.sum().clamp_min(1.0)
    rarity = (shares + RARE) ** -balance
    return rarity / (rarity * shares).sum().clamp_min(RARE)
