"""The vision side: multispectral four-stage encoder, multiscale feature aggregation and neck.

Source: SPEX (arXiv 2508.05202) on an InternImage-shaped encoder (arXiv 2211.05778). Tensors are channels-last
``[B, H, W, C]`` inside the encoder and ``[B, C, H, W]`` outside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spex_core.bands import BANDS, Band, band_slots
from spex_core.dcnv3 import LAYER_NORM_EPS, DCNv3
from spex_core.dcnv3_sampling import Sampling
from spex_core.indices import SPECTRAL_INDICES, spectral_index, with_either_near_infrared

if TYPE_CHECKING:
    from spex_core.configuration import SpexConfig


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channel axis of ``[B, C, H, W]``."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape in and out."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class BandEncoding(nn.Module):
    """Any subset of bands, at any of their wavelengths and pixel sizes, becomes the same channels.

    A present band enters through a linear map that is generated from its wavelength and ground sampling distance (the
    idea of DOFA, arXiv 2403.15356), on top of the identity of its channel; a missing one through a learned vector. With
    ten bands and a freshly initialised generator the output is the input.
    """

    FREQUENCIES = 6

    def __init__(self, bands: int, hidden: int = 32) -> None:
        super().__init__()
        last = nn.Linear(hidden, bands + bands)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.generator = nn.Sequential(nn.Linear(2 * self.FREQUENCIES + 2, hidden), nn.GELU(), last)
        self.missing = nn.Parameter(torch.zeros(bands, bands))

    def forward(self, x: Tensor, present: Tensor, wavelength_nm: Tensor, gsd_m: Tensor) -> Tensor:
        """Mixes the present bands.

        Args:
            x: float ``[B, C, H, W]``, normalised reflectance; 0 in missing bands.
            present: bool ``[B, C]``.
            wavelength_nm: float ``[B, C]``.
            gsd_m: float ``[B, C]``, size of a pixel's ground sample.

        Returns:
            float ``[B, C, H, W]``.
        """
        bands = x.shape[1]
        micrometres = wavelength_nm.unsqueeze(-1) / 1000.0
        phase = (
            micrometres * math.pi * 2.0 ** torch.arange(self.FREQUENCIES, device=x.device, dtype=micrometres.dtype) / 2
        )
        encoding = torch.cat([phase.sin(), phase.cos(), micrometres, torch.log2(gsd_m / 10.0).unsqueeze(-1)], dim=-1)
        weights, offsets = self.generator(encoding.to(x.dtype)).split(bands, dim=-1)  # [B, C in, C out] each
        here = present.to(x.dtype).unsqueeze(-1)
        mixing = here * (torch.eye(bands, device=x.device, dtype=x.dtype) + weights)
        constant = (here * offsets + (1 - here) * self.missing).sum(1)
        mixed: Tensor = torch.einsum("bihw,bio->bohw", x, mixing) + constant[..., None, None]
        return mixed


def channels_of(pixel_values: Tensor, bands: Sequence[Band | str], gsd_m: float | None = None) -> tuple[Tensor, Tensor]:
    """Puts bands of any sensor into the ten channels of a model with ``band_encoding``.

    Args:
        pixel_values: Surface reflectance, float ``[B, C, H, W]``.
        bands: The C bands: names of Sentinel-2 bands, or bands of another sensor.
        gsd_m: Size of a pixel on the ground where it is coarser than the bands' own, metres.

    Returns:
        Channels ``[B, 10, H, W]``, NaN in those without a band; and float64 ``[2, B, 10]`` on the CPU, wavelength (nm)
        and pixel size (m) of each channel.

    Raises:
        ModelInputError: A band that stands for no channel, or two for one.
    """
    slots, described = band_slots(bands)
    channels = pixel_values.new_full((len(pixel_values), len(BANDS), *pixel_values.shape[-2:]), torch.nan)
    channels[:, list(slots)] = pixel_values
    wavelength = [band.wavelength_nm for band in BANDS]
    sampling = [float(band.gsd_m) for band in BANDS]
    for slot, band in zip(slots, described, strict=True):
        wavelength[slot], sampling[slot] = band.wavelength_nm, float(band.gsd_m)
    if gsd_m is not None:
        sampling = [max(gsd_m, own) for own in sampling]
    each = torch.tensor([wavelength, sampling], dtype=torch.float64)
    return channels, each[:, None].expand(-1, len(pixel_values), -1)


class SpectralInput(nn.Module):
    """Surface reflectance ``[B, C, H, W]`` → normalised channels, with spectral indices beside them if configured."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: SpexConfig) -> None:
        super().__init__()
        self.index_channels = config.index_channels
        self.channels = len(config.bands) + (len(SPECTRAL_INDICES) - 1 if config.index_channels else 0)
        self._normalisation = (config.band_mean, config.band_std)
        self.register_buffer("mean", torch.empty(1, len(config.bands), 1, 1), persistent=False)
        self.register_buffer("std", torch.empty(1, len(config.bands), 1, 1), persistent=False)
        self.reset_normalisation()
        if config.band_encoding:
            self.encoding = BandEncoding(len(config.bands))

    @torch.no_grad()
    def reset_normalisation(self) -> None:
        """Fills the buffers from the configuration; loading needs it, because they are not part of the weights."""
        for buffer, values in zip((self.mean, self.std), self._normalisation, strict=True):
            if not buffer.is_meta:
                buffer.copy_(torch.tensor(values).view(1, -1, 1, 1))

    def forward(self, reflectance: Tensor, wavelength_nm: Tensor | None = None, gsd_m: Tensor | None = None) -> Tensor:
        """Normalises, encodes the bands if configured, and appends indices.

        Args:
            reflectance: float ``[B, C, H, W]``. With a band encoding, a band that is NaN throughout is missing.
            wavelength_nm: float ``[B, C]``; default: Sentinel-2's.
            gsd_m: float ``[B, C]``, metres; default: Sentinel-2's.

        Returns:
            float ``[B, C', H, W]``; the last seven of C' are indices in [-1, 1], 0 where a band is missing.
        """
        normalised = (reflectance - self.mean) / self.std
        if hasattr(self, "encoding"):
            present = ~reflectance[:, :, 0, 0].isnan()
            table = reflectance.new_tensor([[band.wavelength_nm, band.gsd_m] for band in BANDS]).T
            wavelength_nm = table[0].expand(len(reflectance), -1) if wavelength_nm is None else wavelength_nm
            gsd_m = table[1].expand(len(reflectance), -1) if gsd_m is None else gsd_m
            normalised = self.encoding(normalised.nan_to_num(0.0), present, wavelength_nm, gsd_m)
            reflectance = with_either_near_infrared(reflectance)
        if not self.index_channels:
            return normalised
        # "brightness" is a plain mean of bands: nothing that the first convolution could not form itself.
        indices = [spectral_index(name, reflectance) for name in SPECTRAL_INDICES if name != "brightness"]
        return torch.cat([normalised, torch.stack(indices, dim=1).nan_to_num(0.0)], dim=1)


class Stem(nn.Module):
    """Two strided convolutions to stride 4; returns channels-last."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels // 2, 3, stride=2, padding=1)
        self.norm1 = nn.LayerNorm(channels // 2, eps=LAYER_NORM_EPS)
        self.conv2 = nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1)
        self.norm2 = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` → ``[B, H/4, W/4, channels]``."""
        x = F.gelu(self.norm1(self.conv1(x).permute(0, 2, 3, 1)))
        out: Tensor = self.norm2(self.conv2(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return out


class DepthwiseMixer(nn.Module):
    """Depthwise convolution between two linear maps: the CPU-friendly stand-in for deformable convolution."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.input_proj = nn.Linear(channels, channels)
        self.depthwise = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.output_proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` → the same."""
        value = self.input_proj(x).permute(0, 3, 1, 2)
        out: Tensor = self.output_proj(F.gelu(self.depthwise(value).permute(0, 2, 3, 1)))
        return out


class EncoderBlock(nn.Module):
    """Post-norm residual block with per-channel residual scales (InternImage-L layout)."""

    def __init__(self, config: SpexConfig, channels: int, drop_path: float = 0.0) -> None:
        super().__init__()
        hidden = int(channels * config.mlp_ratio)
        self.drop_path = drop_path
        self.mixer: nn.Module = (
            DCNv3(channels, channels // config.group_channels, Sampling(offset_scale=config.offset_scale))
            if config.mixer == "dcnv3"
            else DepthwiseMixer(channels, config.mixer_kernel)
        )
        self.norm1 = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)
        self.norm2 = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)
        self.scale1 = nn.Parameter(torch.full((channels,), config.layer_scale))
        self.scale2 = nn.Parameter(torch.full((channels,), config.layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` → the same."""
        x = x + self._kept(self.scale1 * self.norm1(self.mixer(x)))
        out: Tensor = x + self._kept(self.scale2 * self.norm2(self.fc2(F.gelu(self.fc1(x)))))
        return out

    def _kept(self, branch: Tensor) -> Tensor:
        """Stochastic depth (arXiv 1603.09382): in training, whole samples skip a branch; the others weigh more."""
        if not self.training or self.drop_path == 0:
            return branch
        keep = 1 - self.drop_path
        chosen = torch.rand(len(branch), *[1] * (branch.ndim - 1), device=branch.device) < keep
        return branch * chosen / keep


class Downsample(nn.Module):
    """Strided convolution that doubles the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.norm = nn.LayerNorm(2 * channels, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` → ``[B, H/2, W/2, 2C]``."""
        out: Tensor = self.norm(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return out


class Encoder(nn.Module):
    """Four stages at strides 4, 8, 16, 32."""

    gradient_checkpointing = False
    """Set by transformers' ``activation_checkpointing_enable``: blocks are computed again on the way back."""
    _gradient_checkpointing_func: Callable[..., Tensor]

    def __init__(self, config: SpexConfig, in_channels: int) -> None:
        super().__init__()
        widths = [config.channels * 2**level for level in range(4)]
        self.stem = Stem(in_channels, widths[0])
        blocks = sum(config.depths)
        skipped = iter(config.drop_path * block / max(blocks - 1, 1) for block in range(blocks))
        self.stages = nn.ModuleList(
            nn.Sequential(*(EncoderBlock(config, width, next(skipped)) for _ in range(depth)))
            for width, depth in zip(widths, config.depths, strict=True)
        )
        self.downsamples = nn.ModuleList(Downsample(width) for width in widths[:-1])

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[B, C, H, W]`` → four maps ``[B, channels * 2**l, H / (4 * 2**l), W / (4 * 2**l)]``."""
        x = self.stem(x)
        levels = []
        for level, stage in enumerate(self.stages):
            if self.gradient_checkpointing and self.training:
                for block in stage.children():
                    x = self._gradient_checkpointing_func(block.__call__, x)
            else:
                x = stage(x)
            levels.append(x.permute(0, 3, 1, 2))
            if level < 3:
                x = self.downsamples[level](x)
        return levels


class MultiscaleAggregator(nn.Module):
    """All stages at stride 16, concatenated and fused: the map that both the language model and the masks see."""

    def __init__(self, config: SpexConfig) -> None:
        super().__init__()
        self.fuse = nn.Conv2d(config.channels * 15, config.aggregator_channels, 1)
        self.norm: nn.Module = (
            nn.GroupNorm(16, config.aggregator_channels)
            if config.aggregator_norm == "group"
            else ChannelNorm(config.aggregator_channels)
        )
        self.dropout = nn.Dropout(config.aggregator_dropout)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Four encoder maps → ``[B, aggregator_channels, H/16, W/16]``."""
        size = levels[2].shape[-2:]
        resized = [
            level if level.shape[-2:] == size else F.interpolate(level, size, mode="bilinear", align_corners=True)
            for level in levels
        ]
        fused = self.fuse(torch.cat([resized[2], resized[0], resized[1], resized[3]], dim=1))
        out: Tensor = self.dropout(F.gelu(self.norm(fused)))
        return out


class VisionNeck(nn.Module):
    """Aggregated map → image embedding of the mask decoder."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.norm1 = ChannelNorm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, h, w]`` → ``[B, channels, h, w]``."""
        out: Tensor = self.norm2(self.conv2(self.norm1(self.conv1(x))))
        return out
