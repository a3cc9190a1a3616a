"""Training losses: the paper's (cross-entropy + 2 BCE + Dice) and a joint cross-entropy over the legend."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

DICE_SMOOTHING = 1e-3


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Dice loss of N masks, squared in the denominator, mean over masks. Both ``[N, P]``; targets 0..1."""
    probability = logits.sigmoid()
    overlap = 2 * (probability * targets).sum(1)
    total = probability.square().sum(1) + targets.square().sum(1) + 2 * DICE_SMOOTHING
    return (1 - overlap / total).mean()


def mask_losses(logits: Tensor, targets: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Losses of class masks against hard or soft targets.

    Args:
        logits: float ``[B, K, H, W]``.
        targets: float ``[B, K, H, W]``, class probabilities of each pixel.
        weight: float ``[B, H, W]``; 0 where the pixel has no label.

    Returns:
        ``bce`` and ``dice`` (the paper's, per class) and ``joint`` (softmax cross-entropy over the K classes, because
        the map takes the best class of the whole legend: docs/decisions/0008).
    """
    total = weight.sum().clamp_min(1.0)
    bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
    joint = -(targets * logits.log_softmax(dim=1)).sum(1)
    masked = targets * weight[:, None]
    present = masked.flatten(2).sum(-1) > 0
    counted = torch.where(weight[:, None] > 0, logits, torch.full_like(logits, -30.0))
    # Dice of an absent class says nothing about overlap; BCE already pushes such masks down.
    dice = dice_loss(counted.flatten(2)[present], masked.flatten(2)[present]) if present.any() else bce.new_zeros(())
    return {"bce": (bce * weight).sum() / total, "dice": dice, "joint": (joint * weight).sum() / total}


def text_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Next-token cross-entropy. ``logits`` ``[N, vocab]``, ``targets`` int64 ``[N]``."""
    return F.cross_entropy(logits, targets) if targets.numel() else logits.new_zeros(())


def published_dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Dice loss as published: each square sum is smoothed by itself, and the mean divides by N + float32's epsilon."""
    probability = logits.sigmoid()
    overlap = 2 * (probability * targets).sum(1)
    total = (probability.square().sum(1) + DICE_SMOOTHING) + (targets.square().sum(1) + DICE_SMOOTHING)
    return (1 - overlap / total).sum() / (len(logits) + torch.finfo(torch.float32).eps)
