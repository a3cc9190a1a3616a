"""SAM-style two-way mask decoder (arXiv 2304.02643), written for SPEX's four text prompts per class.

transformers' own decoder cannot be used: SPEX was built on a release whose token-to-image attention takes softmax
twice (``SpexConfig.double_softmax``), and ours adds full-resolution spectral detail to the mask features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spex_core.dcnv3 import LAYER_NORM_EPS
from spex_core.encoder import ChannelNorm

if TYPE_CHECKING:
    from spex_core.configuration import SpexConfig


class PositionEncoding(nn.Module):
    """Random Fourier features of cell centres; the matrix is a buffer that always comes from the checkpoint."""

    positional_embedding: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("positional_embedding", torch.randn(2, width // 2))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PositionEncoding:
        # Half precision would move the phase of large frequencies by whole turns.
        exact = self.positional_embedding
        super()._apply(fn, recurse)
        if self.positional_embedding.dtype in (torch.float16, torch.bfloat16):
            self.positional_embedding = exact.to(self.positional_embedding.device)
        return self

    def forward(self, height: int, width: int) -> Tensor:
        """→ float ``[1, width_of_embedding, height, width]``, computed in at least float32."""
        matrix = self.positional_embedding.to(torch.promote_types(self.positional_embedding.dtype, torch.float32))
        y = (torch.arange(height, device=matrix.device, dtype=matrix.dtype) + 0.5) / height
        x = (torch.arange(width, device=matrix.device, dtype=matrix.dtype) + 0.5) / width
        centres = torch.stack([x[None, :].expand(height, width), y[:, None].expand(height, width)], dim=-1)
        # The order of operations matters in float32 where the stored matrix is large (notes on the release, Q9).
        angle = 2 * math.pi * ((2 * centres - 1) @ matrix)
        return torch.cat([angle.sin(), angle.cos()], dim=-1).permute(2, 0, 1)[None]


class Attention(nn.Module):
    """Multi-head attention with an optional narrower inner width."""

    def __init__(self, width: int, heads: int, downsample: int = 1, double_softmax: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.double_softmax = double_softmax
        inner = width // downsample
        self.q_proj = nn.Linear(width, inner)
        self.k_proj = nn.Linear(width, inner)
        self.v_proj = nn.Linear(width, inner)
        self.out_proj = nn.Linear(inner, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """``[B, Tq, C], [B, Tk, C], [B, Tk, C]`` → ``[B, Tq, C]``."""
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for t in (self.q_proj(query), self.k_proj(key), self.v_proj(value))
        )
        if self.double_softmax:
            weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1).softmax(-1)
            attended = weights @ v
        else:
            attended = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out


class TwoWayLayer(nn.Module):
    """Tokens attend to themselves and the image; the image attends back."""

    def __init__(self, config: SpexConfig, first: bool) -> None:
        super().__init__()
        width, heads = config.decoder_width, config.decoder_heads
        self.first = first
        self.self_attention = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.token_to_image = Attention(width, heads, 2, config.double_softmax)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.fc1 = nn.Linear(width, config.decoder_mlp)
        self.fc2 = nn.Linear(config.decoder_mlp, width)
        self.norm3 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.image_to_token = Attention(width, heads, 2)
        self.norm4 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, tokens: Tensor, image: Tensor, token_pe: Tensor, image_pe: Tensor) -> tuple[Tensor, Tensor]:
        """tokens ``[N, T, C]``, image ``[N, h*w, C]`` with their positional terms → both, updated."""
        if self.first:  # the first layer replaces the tokens: no positional term, no residual
            tokens = self.self_attention(tokens, tokens, tokens)
        else:
            placed = tokens + token_pe
            tokens = tokens + self.self_attention(placed, placed, tokens)
        tokens = self.norm1(tokens)
        tokens = self.norm2(tokens + self.token_to_image(tokens + token_pe, image + image_pe, image))
        tokens = self.norm3(tokens + self.fc2(F.relu(self.fc1(tokens))))
        image = self.norm4(image + self.image_to_token(image + image_pe, tokens + token_pe, tokens))
        return tokens, image


class HyperNetwork(nn.Module):
    """Three-layer MLP from a mask token to the weights of a per-pixel dot product."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(width, width)
        self.hidden = nn.Linear(width, width)
        self.proj_out = nn.Linear(width, out_width)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, width]`` → ``[N, out_width]``."""
        out: Tensor = self.proj_out(F.relu(self.hidden(F.relu(self.proj_in(x)))))
        return out


class UnusedHeads(nn.Module):
    """Published weights that take no part in a mask: kept, so that a converted checkpoint is complete."""

    def __init__(self, width: int, mask_tokens: int) -> None:
        super().__init__()
        self.quality = HyperNetwork(width, mask_tokens)
        self.hyper = nn.ModuleList(HyperNetwork(width, width // 8) for _ in range(mask_tokens - 1))
        self.points = nn.ParameterList(torch.zeros(1, width) for _ in range(4))
        self.no_point = nn.Parameter(torch.zeros(1, width))
        self.mask_conv1 = nn.Conv2d(1, 4, 2, stride=2)
        self.mask_norm1 = ChannelNorm(4)
        self.mask_conv2 = nn.Conv2d(4, 16, 2, stride=2)
        self.mask_norm2 = ChannelNorm(16)
        self.mask_conv3 = nn.Conv2d(16, width, 1)


class MaskDecoder(nn.Module):
    """Image embedding and four prompts per class → one mask logit map per class."""

    def __init__(self, config: SpexConfig) -> None:
        super().__init__()
        width = config.decoder_width
        self.detail = config.mask_detail != "none"
        self.iou_token = nn.Parameter(torch.randn(1, width) * 0.02)
        self.mask_tokens = nn.Parameter(torch.randn(config.mask_tokens, width) * 0.02)
        self.no_mask_embedding = nn.Parameter(torch.zeros(1, width))
        self.position = PositionEncoding(width)
        self.layers = nn.ModuleList(TwoWayLayer(config, first=index == 0) for index in range(config.decoder_layers))
        self.final_attention = Attention(width, config.decoder_heads, 2)
        self.final_norm = nn.LayerNorm(width, eps=1e-5)
        self.upscale1 = nn.ConvTranspose2d(width, width // 4, 2, stride=2)
        self.upscale_norm = ChannelNorm(width // 4)
        self.upscale2 = nn.ConvTranspose2d(width // 4, width // 8, 2, stride=2)
        self.hyper = HyperNetwork(width, width // 8)
        if self.detail:
            self.detail_hyper = HyperNetwork(width, config.detail_channels + 1)
        if config.published_heads:
            self.unused_heads = UnusedHeads(width, config.mask_tokens)

    def forward(self, image_embedding: Tensor, prompts: Tensor, detail: Tensor | None) -> Tensor:
        """Decodes every class of every tile at once.

        Args:
            image_embedding: float ``[B, C, h, w]`` at stride 16.
            prompts: float ``[B, K, 4, C]``, the condensed answer tokens of K classes.
            detail: float ``[B, D, H, W]`` full-resolution features, or None for the published layout.

        Returns:
            Logits ``[B, K, H, W]`` with detail, ``[B, K, 4h, 4w]`` without.
        """
        batch, classes = prompts.shape[:2]
        height, columns = image_embedding.shape[-2:]
        position = self.position(height, columns).to(image_embedding.dtype)
        image_pe = position.flatten(2).transpose(1, 2)
        learned = torch.cat([self.iou_token, self.mask_tokens])
        tokens = torch.cat([learned.expand(batch * classes, -1, -1), prompts.flatten(0, 1)], dim=1)
        token_pe = tokens
        image = image_embedding + self.no_mask_embedding.view(1, -1, 1, 1)
        image = image.flatten(2).transpose(1, 2).repeat_interleave(classes, dim=0)
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_pe, image_pe)
        tokens = self.final_norm(tokens + self.final_attention(tokens + token_pe, image + image_pe, image))
        features = image.transpose(1, 2).unflatten(2, (height, columns))
        features = F.gelu(self.upscale_norm(self.upscale1(features)))
        features = F.gelu(self.upscale2(features))
        mask_token = tokens[:, 1]
        logits: Tensor = torch.einsum("nc,nchw->nhw", self.hyper(mask_token), features).unflatten(0, (batch, classes))
        if detail is None:
            return logits
        weights = self.detail_hyper(mask_token).unflatten(0, (batch, classes))
        fine = torch.einsum("bkd,bdhw->bkhw", weights[..., :-1], detail) + weights[..., -1, None, None]
        out: Tensor = fine + F.interpolate(logits, detail.shape[-2:], mode="bilinear", align_corners=False)
        return out
