"""Features of every pixel, which join the masks of the coarse decoder: 10 m pixels matter in land cover.

Roads, hedges and river banks are a pixel or two wide, and the published masks (arXiv 2508.05202) stop at stride 4.
Tensors are ``[B, C, H, W]``, in channels-last order: the encoder's maps lie so already, convolutions are faster, and
norms need no copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spex_core.encoder import ChannelNorm

if TYPE_CHECKING:
    from spex_core.configuration import SpexConfig


class _Laterals(nn.ModuleList):
    """What three encoder scales say, at the size of the finest."""

    def __init__(self, config: SpexConfig, width: int) -> None:
        scales = (config.channels, config.channels * 2, config.aggregator_channels)
        super().__init__(nn.Conv2d(channels, width, 1) for channels in scales)

    def forward(self, levels: list[Tensor], aggregated: Tensor) -> Tensor:
        """Encoder maps → ``[B, width, H/4, W/4]``."""
        first, *others = self
        context: Tensor = first(levels[0])
        for lateral, level in zip(others, (levels[1], aggregated), strict=True):
            context = context + F.interpolate(lateral(level), context.shape[-2:], mode="bilinear", align_corners=False)
        return context


class SpectralDetail(nn.Module):
    """The input channels and what three encoder scales say about them, convolved at full resolution."""

    def __init__(self, config: SpexConfig, in_channels: int) -> None:
        super().__init__()
        width = config.detail_channels
        self.laterals = _Laterals(config, 2 * width)
        self.context = nn.Conv2d(2 * width, width, 3, padding=1)
        self.pixel1 = nn.Conv2d(in_channels, width, 3, padding=1)
        self.pixel2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm = ChannelNorm(width)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.out_norm = ChannelNorm(width)

    def forward(self, inputs: Tensor, levels: list[Tensor], aggregated: Tensor) -> Tensor:
        """``inputs`` ``[B, C', H, W]`` and encoder maps → ``[B, detail_channels, H, W]``."""
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        context = self.context(F.gelu(self.laterals(levels, aggregated)))
        pixel = self.pixel2(F.gelu(self.pixel1(inputs)))
        x = self.norm(pixel + F.interpolate(context, inputs.shape[-2:], mode="bilinear", align_corners=False))
        out: Tensor = self.out_norm(x + self.mix(F.gelu(x)))
        return F.gelu(out)


class HalfSizeDetail(nn.Module):
    """The same at half the size: a position holds four pixels, and the last layer tells them apart.

    A third of the arithmetic of :class:`SpectralDetail`, which takes half of a small model's time on a CPU
    (docs/decisions/0030).
    """

    def __init__(self, config: SpexConfig, in_channels: int) -> None:
        super().__init__()
        width = 4 * config.detail_channels
        self.laterals = _Laterals(config, width)
        self.pixels = nn.Conv2d(in_channels, width, 4, stride=2, padding=1)
        self.norm = ChannelNorm(width)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.apart = nn.Conv2d(width, width, 1)

    def forward(self, inputs: Tensor, levels: list[Tensor], aggregated: Tensor) -> Tensor:
        """``inputs`` ``[B, C', H, W]`` and encoder maps → ``[B, detail_channels, H, W]``."""
        pixels = self.pixels(inputs.contiguous(memory_format=torch.channels_last))
        context = self.laterals(levels, aggregated)
        x = F.gelu(self.norm(pixels + F.interpolate(context, pixels.shape[-2:], mode="bilinear", align_corners=False)))
        return F.pixel_shuffle(self.apart(F.gelu(x + self.mix(x))), 2)


def make_detail(config: SpexConfig, in_channels: int) -> SpectralDetail | HalfSizeDetail | None:
    """The detail of a configuration; None where its masks have none."""
    if config.mask_detail == "none":
        return None
    return (SpectralDetail if config.mask_detail == "full" else HalfSizeDetail)(config, in_channels)
