"""transformers' Qwen2, computing norms and rotary angles in the precision of its weights, at least float32.

The stock modules compute them in float32 even in a float64 model, which hides errors smaller than 1e-7 from tests.
In float32 and below the results are the same to the bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2Model
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm, Qwen2RotaryEmbedding


class PreciseRMSNorm(Qwen2RMSNorm):
    """Root-mean-square norm in at least float32."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """``[..., hidden]`` → the same."""
        exact = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
        normed = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        out: Tensor = self.weight * normed.to(hidden_states.dtype)
        return out


class PreciseRotaryEmbedding(Qwen2RotaryEmbedding):
    """Rotary frequencies and angles in float32, or in float64 for a float64 model."""

    def frequencies(self, dtype: torch.dtype) -> Tensor:
        """Angles per position, ``[head_dim / 2]``; below float64 they are transformers' own float32 values."""
        if dtype != torch.float64:
            stock: Tensor = self.inv_freq.to(torch.float32)
            return stock
        width = 2 * self.inv_freq.shape[0]
        exponents = torch.arange(0, width, 2, dtype=dtype, device=self.inv_freq.device) / width
        parameters: dict[str, Any] = dict(self.config.rope_parameters or {})
        theta: float = parameters["rope_theta"]
        return torch.pow(theta, exponents).reciprocal()

    @torch.no_grad()
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines ``[B, T, head_dim]`` of positions ``[B, T]``, in the dtype of ``x``."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        angles = position_ids[..., None].to(dtype) * self.frequencies(dtype).to(x.device)
        angles = torch.cat((angles, angles), dim=-1)
        scaling = self.attention_scaling
        return (angles.cos() * scaling).to(x.dtype), (angles.sin() * scaling).to(x.dtype)


def build_language_model(config: Qwen2Config) -> Qwen2Model:
    """A Qwen2 with stock weights' names; scaled rotary variants keep transformers' own embedding."""
    model = Qwen2Model(config)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is Qwen2RMSNorm:
                setattr(parent, name, PreciseRMSNorm(child.weight.shape[0], child.variance_epsilon))
    if model.rotary_emb.rope_type == "default":
        model.rotary_emb = PreciseRotaryEmbedding(config)
    return model
