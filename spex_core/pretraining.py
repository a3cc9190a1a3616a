"""Multispectral visual pre-training: masked reconstruction over space and bands, with index-guided masking.

Stage 1 of SPEX (arXiv 2508.05202) teaches the vision encoder multispectral images before any instruction. Here parts of
a chip are hidden and the encoder has to say what they reflect, as in SimMIM (arXiv 2111.09886): no label is needed.
Random masking would mostly hide water, fields and forest, which any neighbour gives away. So places that are
spectrally distinctive (mixed within, or rare in their chip, by the spectral indices) are hidden more often.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spex_core.bands import BANDS
from spex_core.configuration import STRIDE, SpexConfig
from spex_core.indices import SPECTRAL_INDICES, spectral_index
from spex_core.losses import LossSum
from spex_core.modeling import SpexForLandCover

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

PATCH_PX = STRIDE
"""Side of a masked patch: one cell of the aggregated map."""
CELL_PX = 4
"""Reconstruction is judged on means of so many pixels' side, the stride of the first encoder stage."""
HIDDEN_SHARE = 0.6
"""Share of patches that are hidden in all bands (SimMIM's)."""
GUIDANCE = 1.0
"""Log-odds by which one standard deviation of distinctiveness raises the chance to be hidden; 0 is random masking."""
BAND_SHARE = 0.5
"""Share of views that also lose up to four neighbouring bands everywhere."""
_RARITY_BINS = 16


def distinctiveness(reflectance: FloatArray, patch_px: int = PATCH_PX) -> FloatArray:
    """How much each patch of a chip stands out by its spectral indices.

    The sum of two standard scores: the spread of the indices within the patch, and the rarity (negative log frequency
    in the chip) of its mean index values. Indices that need a missing band do not count.

    Args:
        reflectance: float32 ``[10, H, W]``, NaN throughout a missing band; H and W are multiples of ``patch_px``.
        patch_px: Side of a patch.

    Returns:
        float32 ``[H / patch_px, W / patch_px]``; 0 on average, larger is more distinctive.
    """
    height, width = reflectance.shape[-2:]
    shape = (height // patch_px, width // patch_px)
    spread, rarity = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for name in SPECTRAL_INDICES:
        index = np.asarray(spectral_index(name, reflectance), np.float32)
        if np.isnan(index).any():
            continue
        patches = index.reshape(shape[0], patch_px, shape[1], patch_px)
        spread += patches.std((1, 3)) / max(float(index.std()), 1e-6)
        edges = np.linspace(float(index.min()), float(index.max()) + 1e-6, _RARITY_BINS + 1)[1:-1]
        frequency = np.bincount(np.digitize(index.ravel(), edges), minlength=_RARITY_BINS) / index.size
        rarity -= np.log(np.maximum(frequency, 1 / index.size)).astype(np.float32)[
            np.digitize(patches.mean((1, 3)), edges)
        ]
    return _standard(spread) + _standard(rarity)


def hidden_parts(
    reflectance: FloatArray,
    rng: np.random.Generator,
    *,
    share: float = HIDDEN_SHARE,
    guidance: float = GUIDANCE,
    band_share: float = BAND_SHARE,
) -> BoolArray:
    """Which patches and bands of a chip are hidden from the encoder.

    Args:
        reflectance: float32 ``[10, H, W]``, NaN throughout a missing band; sides are multiples of :data:`PATCH_PX`.
        rng: Decides everything.
        share: Share of patches that are hidden in every band; exact, rounded to whole patches.
        guidance: See :data:`GUIDANCE`.
        band_share: See :data:`BAND_SHARE`.

    Returns:
        bool ``[10, H / PATCH_PX, W / PATCH_PX]``.
    """
    score = guidance * distinctiveness(reflectance)
    # Gumbel noise: the largest keys are a draw without replacement with odds exp(score).
    keys = score + rng.gumbel(size=score.shape)
    count = round(share * score.size)
    chosen = np.zeros(score.size, bool)
    chosen[np.argsort(-keys, axis=None, kind="stable")[:count]] = True
    hidden = np.repeat(chosen.reshape(1, *score.shape), len(BANDS), axis=0)
    present = np.flatnonzero(~np.isnan(reflectance[:, 0, 0]))
    if rng.random() < band_share and len(present) > 3:
        # Neighbours in wavelength, because one band alone can be read off the next.
        run = int(rng.integers(1, min(4, len(present) - 3) + 1))
        first = int(rng.integers(0, len(present) - run + 1))
        hidden[present[first : first + run]] = True
    return hidden


class ReconstructionHead(nn.Module):
    """One linear map from aggregated features to reflectance; dropped after pre-training."""

    def __init__(self, config: SpexConfig) -> None:
        super().__init__()
        cells = (STRIDE // CELL_PX) ** 2
        self.reconstruct = nn.Conv2d(config.aggregator_channels, len(config.bands) * cells, 1)

    def forward(self, aggregated: Tensor) -> Tensor:
        """``[B, aggregator_channels, H/16, W/16]`` → normalised reflectance ``[B, C, H/4, W/4]``."""
        return F.pixel_shuffle(self.reconstruct(aggregated), STRIDE // CELL_PX)


class MaskedReconstruction(nn.Module):
    """The model's vision side with a reconstruction head: one module, so that data-parallel training can wrap it."""

    def __init__(self, model: SpexForLandCover, head: ReconstructionHead) -> None:
        super().__init__()
        self.model = model
        self.head = head

    def forward(self, reflectance: Tensor, hidden: Tensor, gsd_m: Tensor) -> Tensor:
        """Reconstructs chips from what is not hidden.

        Args:
            reflectance: float ``[B, 10, H, W]``, NaN throughout a missing band.
            hidden: bool ``[B, 10, H / PATCH_PX, W / PATCH_PX]``.
            gsd_m: float ``[B, 10]``.

        Returns:
            Normalised reflectance, float ``[B, 10, H / CELL_PX, W / CELL_PX]``.
        """
        config = self.model.config
        mean = reflectance.new_tensor(config.band_mean)[:, None, None]
        missing = reflectance.isnan()
        shown = torch.where(_grown(hidden, PATCH_PX) & ~missing, mean, reflectance)
        if config.band_encoding:
            # A band that is hidden everywhere is as good as missing: this trains its learned vector as well.
            everywhere = hidden.flatten(2).all(-1)
            shown = shown.masked_fill(everywhere[..., None, None], math.nan)
        levels = self.model.encoder(self.model.spectral_input(shown, gsd_m=gsd_m))
        predicted: Tensor = self.head(self.model.aggregator(levels))
        return predicted


def reconstruction_loss_sum(predicted: Tensor, reflectance: Tensor, hidden: Tensor, config: SpexConfig) -> LossSum:
    """Absolute error in units of each band's standard deviation, over hidden cells alone.

    Args:
        predicted: float ``[B, 10, H / CELL_PX, W / CELL_PX]``.
        reflectance: float ``[B, 10, H, W]``; missing bands (NaN) have no error.
        hidden: bool ``[B, 10, H / PATCH_PX, W / PATCH_PX]``.
        config: Normalisation.
    """
    mean, std = (reflectance.new_tensor(v)[:, None, None] for v in (config.band_mean, config.band_std))
    target = (F.avg_pool2d(reflectance, CELL_PX) - mean) / std
    judged = _grown(hidden, PATCH_PX // CELL_PX) & ~target.isnan()
    error = (predicted - target.nan_to_num(0.0)).abs()
    return (error * judged).sum(), judged.sum()


def _grown(hidden: Tensor, factor: int) -> Tensor:
    return hidden.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)


def _standard(values: FloatArray) -> FloatArray:
    deviation = float(values.std())
    return (values - values.mean()) / np.float32(deviation) if deviation > 1e-6 else np.zeros_like(values)
