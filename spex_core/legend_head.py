"""A head for one legend: a linear map of everything that a frozen model sees of a pixel (docs/decisions/0041).

What few labels can carry: the inputs of a pixel and of its neighbourhood, the model's features of several scales and
its masks of the class words that it knows, each with weights of its own. A linear map commutes with interpolation, so
coarse maps are weighed at their own size. Tensors are ``[B, C, H, W]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spex_core.indices import SPECTRAL_INDICES

if TYPE_CHECKING:
    from spex_core.configuration import SpexConfig

NEIGHBOURHOODS = (3, 7)
"""Sides in pixels over which means and spreads of the inputs are taken."""
SMALLEST_VARIANCE = 1e-6
"""Of normalised inputs: keeps the root of a sum's rounding error from looking like texture."""
WORDS = "words"
"""Source that is not known before the masks are: the logits of the words, without their mean."""


def source_channels(config: SpexConfig) -> dict[str, int]:
    """Name and number of channels of each source, in the order of the weights."""
    inputs = len(config.bands) + (len(SPECTRAL_INDICES) - 1 if config.index_channels else 0)
    near = {f"{kind}{side}": inputs for side in NEIGHBOURHOODS for kind in ("mean", "spread")}
    detail = {} if config.mask_detail == "none" else {"detail": config.detail_channels}
    levels = {"level1": config.channels, "level2": config.channels * 2, "aggregated": config.aggregator_channels}
    return {"inputs": inputs, **near, **detail, **levels, WORDS: config.head_words}


def pixel_sources(inputs: Tensor, levels: list[Tensor], aggregated: Tensor, detail: Tensor | None) -> dict[str, Tensor]:
    """Every source but the words, each at its own size.

    Args:
        inputs: What :class:`spex_core.encoder.SpectralInput` gives, ``[B, C', H, W]``.
        levels: Of the encoder.
        aggregated: Of the aggregator.
        detail: Of the full-resolution detail, if the model has one.
    """
    found = {"inputs": inputs}
    for side in NEIGHBOURHOODS:
        # Beyond the tile there is nothing, not zeros.
        mean = F.avg_pool2d(inputs, side, 1, side // 2, count_include_pad=False)
        square = F.avg_pool2d(inputs.square(), side, 1, side // 2, count_include_pad=False)
        found[f"mean{side}"] = mean
        found[f"spread{side}"] = (square - mean.square()).clamp_min(SMALLEST_VARIANCE).sqrt()
    if detail is not None:
        found["detail"] = detail
    return {**found, "level1": levels[0], "level2": levels[1], "aggregated": aggregated}


def centred(logits: Tensor) -> Tensor:
    """Mask logits without their mean over the words."""
    return logits - logits.mean(dim=1, keepdim=True)


class LegendHead(nn.Module):
    """Logits of the classes of one legend.

    Args:
        config: ``head_codes`` names the K classes, ``head_words`` the number of words that are asked for.
    """

    words: Tensor

    def __init__(self, config: SpexConfig) -> None:
        super().__init__()
        classes = len(config.head_codes)
        self.weights = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(classes, width)) for name, width in source_channels(config).items()}
        )
        self.bias = nn.Parameter(torch.zeros(classes))
        shape = (config.head_words, config.condensed_tokens, config.decoder_width)
        self.register_buffer("words", torch.zeros(shape))

    @torch.no_grad()
    def fill(self, weights: Mapping[str, Tensor], bias: Tensor, words: Tensor) -> None:
        """Takes fitted values; a source without weights says nothing.

        Args:
            weights: Of each source, ``[K, channels]``.
            bias: ``[K]``.
            words: Mask prompts of the words, ``[P, condensed_tokens, decoder_width]``.
        """
        for name, own in self.weights.items():
            own.copy_(weights[name]) if name in weights else own.zero_()
        self.bias.copy_(bias)
        self.words.copy_(words)

    def of_pixels(self, sources: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[B, K, H, W]`` of :func:`pixel_sources`, without the words' share."""
        size = sources["inputs"].shape[-2:]
        total = self._weighed("inputs", sources["inputs"]) + self.bias[:, None, None]
        for name, source in sources.items():
            if name == "inputs":
                continue
            part = self._weighed(name, source)
            if part.shape[-2:] != size:
                part = F.interpolate(part, size, mode="bilinear", align_corners=False)
            total = total + part
        return total

    def with_words(self, of_pixels: Tensor, masks: Tensor) -> Tensor:
        """All of the logits, given those of :meth:`of_pixels` and the words' mask logits ``[B, P, H, W]``."""
        return of_pixels + self._weighed(WORDS, centred(masks))

    def _weighed(self, name: str, source: Tensor) -> Tensor:
        # In float32: reflectances differ in their third digit.
        with torch.autocast(source.device.type, enabled=False):
            weighed: Tensor = F.conv2d(source.float(), self.weights[name][:, :, None, None].float())
        return weighed


def make_legend_head(config: SpexConfig) -> LegendHead | None:
    """The head of a configuration; None where its masks answer for themselves."""
    return LegendHead(config) if config.head_codes else None
