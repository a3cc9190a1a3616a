"""Other looks of a real scene: what it might have been under another sky, in another season, mixed with another place.

A student learns what a teacher does, not what a dozen scenes look like, if the teacher labels far more looks than
there are scenes ("Knowledge distillation: a good teacher is patient and consistent", arXiv 2106.05237). Every look is
labelled anew, so it need not keep its classes; it must only be something that reflectance can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spex_core.bands import BANDS

RECOLOURED, TRANSFERRED = 0.45, 0.8
"""Shares of looks: below the first, classes change colour; below the second, the scene also takes on colours of
another; above, it is also mixed with another."""
FLOOR = 0.002
"""Reflectance below which logarithms say nothing."""


@dataclass(frozen=True)
class Look:
    """One look of a scene."""

    surface: Tensor
    """float32 ``[10, H, W]``, surface reflectance."""
    observed: Tensor
    """bool ``[H, W]``: inside the image and cloud-free, in both scenes if two are mixed."""
    same_place: bool = True
    """False for a mixture, whose classes need not be those of the scene."""


def other_look(look: Look, classes: Tensor, others: Sequence[Look], rng: np.random.Generator) -> Look:
    """A random other look of a scene.

    Args:
        look: The scene as it is.
        classes: int64 ``[H, W]``, the teacher's best class of each pixel, 0..8.
        others: Scenes whose colours or pixels it may take on.
        rng: Decides everything.
    """
    kind = rng.random()
    changed = recoloured(look, classes, rng)
    if kind < RECOLOURED:
        return changed
    other = others[int(rng.integers(len(others)))]
    changed = with_colours_of(changed, other, float(rng.uniform(0.2, 1.0)))
    if kind < TRANSFERRED:
        return changed
    return mixed(changed, other, float(rng.uniform(0.1, 0.5)), rng)


def recoloured(look: Look, classes: Tensor, rng: np.random.Generator) -> Look:
    """Other light, and other vigour of each class."""
    strength = float(np.exp(rng.normal(0, 0.35)))
    change = rng.normal(0, 0.05, (1, 1)) + rng.normal(0, 0.06, (9, 1)) + rng.normal(0, 0.02, (9, len(BANDS)))
    for bands, spread in ((slice(0, 3), 0.10), (slice(3, 4), 0.06), (slice(4, 8), 0.14), (slice(8, 10), 0.11)):
        change[:, bands] += rng.normal(0, spread, (9, 1)) + rng.normal(0, 0.6 * spread, (1, 1))
    gains = torch.from_numpy(np.exp(strength * change).astype(np.float32)).to(look.surface.device)
    # Smooth borders, so that the change draws no edges of its own.
    gain = F.avg_pool2d(gains.T[:, classes][None], 3, stride=1, padding=1, count_include_pad=False)[0]
    return replace(look, surface=look.surface * gain)


def with_colours_of(look: Look, other: Look, share: float) -> Look:
    """Moves mean and spread of each band, in logarithms, towards those of another scene by ``share``."""
    mean, std = _log_statistics(look)
    to_mean, to_std = _log_statistics(other)
    ratio = (to_std / std).clamp(0.5, 2.0) ** share
    logs = look.surface.clamp_min(FLOOR).log()
    moved = (logs - mean) * ratio + mean + share * (to_mean - mean)
    # What noise and overcorrection left below the floor stays where it is.
    return replace(look, surface=torch.where(look.surface > FLOOR, moved.clamp_max(0.7).exp(), look.surface))


def mixed(look: Look, other: Look, share: float, rng: np.random.Generator) -> Look:
    """``share`` of another scene's reflectance, turned, mirrored and repeated to the same size."""
    height, width = look.observed.shape
    turns = int(rng.integers(4))
    surface, observed = torch.rot90(other.surface, turns, (1, 2)), torch.rot90(other.observed, turns)
    surface, observed = torch.cat([surface, surface.flip(1)], 1), torch.cat([observed, observed.flip(0)], 0)
    surface, observed = torch.cat([surface, surface.flip(2)], 2), torch.cat([observed, observed.flip(1)], 1)
    rows = (torch.arange(height, device=surface.device) + int(rng.integers(surface.shape[1]))) % surface.shape[1]
    columns = (torch.arange(width, device=surface.device) + int(rng.integers(surface.shape[2]))) % surface.shape[2]
    blended = (1 - share) * look.surface + share * surface[:, rows][:, :, columns]
    return Look(blended, look.observed & observed[rows][:, columns], same_place=False)


def _log_statistics(look: Look) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation ``[10, 1, 1]`` of the logarithm of each band."""
    logs = look.surface[:, look.observed].clamp_min(FLOOR).log()
    return logs.mean(1)[:, None, None], logs.std(1).clamp_min(0.05)[:, None, None]
