"""From pixels and class prompts to scores: what a SPEX model does beside its language model.

Shared by :class:`spex_core.modeling.SpexForLandCover` and :class:`spex_core.word_masks.WordMasks`. Imports nothing of
transformers, which takes longer to import than a model takes to load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from spex_core.detail import HalfSizeDetail, SpectralDetail
from spex_core.encoder import Encoder, MultiscaleAggregator, SpectralInput, VisionNeck
from spex_core.legend_head import LegendHead, pixel_sources
from spex_core.mask_decoder import MaskDecoder

if TYPE_CHECKING:
    from spex_core.configuration import SpexConfig


class VisionOutput(NamedTuple):
    """What one vision pass yields for every class of a tile."""

    image_tokens: Tensor | None
    """float ``[B, h*w, hidden]``, projected to the language model; None in a model without one."""
    image_embedding: Tensor
    """float ``[B, decoder_width, h, w]`` at stride 16."""
    detail: Tensor | None
    """float ``[B, detail_channels, H, W]`` or None."""
    own: Tensor | None = None
    """float32 ``[B, K, H, W]``, what a legend's own head says of the pixels; None in a model without one."""


class MaskingParts:
    """Methods of a module that holds these parts."""

    config: Any
    """:class:`spex_core.SpexConfig` or its fields; transformers reads the annotations of its models' bases."""
    spectral_input: SpectralInput
    encoder: Encoder
    aggregator: MultiscaleAggregator
    neck: VisionNeck
    mask_decoder: MaskDecoder
    detail: SpectralDetail | HalfSizeDetail | None
    """None if ``config.mask_detail`` is "none"."""
    legend_head: LegendHead | None
    """None in a model that answers any legend."""

    def add_masking_parts(self, config: SpexConfig) -> None:
        """Makes the four that come before a language model; the order decides their random initialisation."""
        self.spectral_input = SpectralInput(config)
        self.encoder = Encoder(config, self.spectral_input.channels)
        self.aggregator = MultiscaleAggregator(config)
        self.neck = VisionNeck(config.aggregator_channels, config.decoder_width)

    def image_tokens(self, aggregated: Tensor) -> Tensor | None:
        """What a language model would read of the image."""
        return None

    def encode_image(
        self, pixel_values: Tensor, wavelength_nm: Tensor | None = None, gsd_m: Tensor | None = None
    ) -> VisionOutput:
        """One vision pass, shared by all classes.

        Args:
            pixel_values: Surface reflectance, float ``[B, C, H, W]``; NaN in missing bands if ``band_encoding`` is set.
            wavelength_nm: float ``[B, C]``; default: Sentinel-2's.
            gsd_m: float ``[B, C]``, metres; default: Sentinel-2's.
        """
        inputs = self.spectral_input(pixel_values, wavelength_nm, gsd_m)
        levels = self.encoder(inputs)
        aggregated = self.aggregator(levels)
        detail = None if self.detail is None else self.detail(inputs, levels, aggregated)
        own = None
        if self.legend_head is not None:
            own = self.legend_head.of_pixels(pixel_sources(inputs, levels, aggregated, detail))
        return VisionOutput(self.image_tokens(aggregated), self.neck(aggregated), detail, own)

    def mask_logits(self, vision: VisionOutput, prompts: Tensor, size: torch.Size) -> Tensor:
        """Mask logits ``[B, K, H, W]`` of a vision pass, at the size of its image.

        With a legend's own head they are the head's, which asks for words of its own.
        """
        if self.legend_head is not None and vision.own is not None:
            words = self.legend_head.words.expand(len(vision.own), -1, -1, -1)
            return self.legend_head.with_words(vision.own, self.prompted_masks(vision, words, size))
        return self.prompted_masks(vision, prompts, size)

    def prompted_masks(self, vision: VisionOutput, prompts: Tensor, size: torch.Size) -> Tensor:
        """Mask logits of prompts, whether or not there is a head."""
        logits: Tensor = self.mask_decoder(vision.image_embedding, prompts, vision.detail)
        if logits.shape[-2:] != size:
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        return logits

    def hard_masks(self, vision: VisionOutput, prompts: Tensor, size: torch.Size) -> Tensor:
        """Masks as the published inference gives them, float32 ``[B, K, H, W]`` in 0..1: thresholded, then resized."""
        low: Tensor = self.mask_decoder(vision.image_embedding, prompts, vision.detail)
        return F.interpolate((low > 0).float(), size, mode="bilinear", align_corners=False)

    def class_scores(
        self,
        channels: Tensor,
        wavelength_nm: Tensor | None,
        sampling_m: Tensor | None,
        vision: VisionOutput,
        prompts: Tensor,
    ) -> Tensor:
        """Scores at the fitted temperature, float32 ``[B, K, H, W]``; coarse images are looked at twice.

        Args:
            channels: What the vision pass has seen.
            wavelength_nm: As there.
            sampling_m: As there.
            vision: What it gave.
            prompts: float ``[B, K, condensed_tokens, decoder_width]``.
        """

        def softmax(logits: Tensor) -> Tensor:
            scores: Tensor = (logits.float() / self.config.temperature).softmax(dim=1)
            return scores

        scores = softmax(self.mask_logits(vision, prompts, channels.shape[-2:]))
        bound, present = self.config.finer_look_gsd_m, ~channels[0, :, 0, 0].isnan()
        if bound is None or sampling_m is None or (sampling_m[0, present.to(sampling_m.device)] < bound).any():
            return scores
        finer = F.interpolate(channels.to(prompts), scale_factor=2, mode="bilinear", align_corners=False)
        second = self.encode_image(finer, wavelength_nm, sampling_m / 2)
        return (scores + F.avg_pool2d(softmax(self.mask_logits(second, prompts, finer.shape[-2:])), 2)) / 2
