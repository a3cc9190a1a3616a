"""Token context condensation (arXiv 2508.05202): the states of an answer become the prompts of its mask."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from spex_core.configuration import SpexConfig


class Condensation(nn.Module):
    """Token context condensation: answer states pooled over time to four mask prompts."""

    def __init__(self, config: SpexConfig) -> None:
        super().__init__()
        self.tokens = config.condensed_tokens
        widths = [config.text.hidden_size, *config.condensation_widths, config.decoder_width]
        layers: list[nn.Module] = []
        for wide, narrow in pairwise(widths):
            layers += [nn.Linear(wide, narrow), nn.ReLU()]
        self.mlp = nn.Sequential(*layers[:-1])

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Adaptive average pooling over each row's own span, then the MLP.

        Args:
            states: float ``[N, T, hidden]``.
            mask: bool ``[N, T]``; each row's True entries are the answer, in order (at least one).

        Returns:
            float ``[N, condensed_tokens, decoder_width]``.
        """
        length = mask.sum(1, keepdim=True)
        rank = mask.cumsum(1) - 1
        bins = torch.arange(self.tokens, device=mask.device)
        start = (bins[None, :] * length) // self.tokens  # floor(i T / n)
        end = -((-(bins[None, :] + 1) * length) // self.tokens)  # ceil((i + 1) T / n)
        member = (rank[:, None, :] >= start[..., None]) & (rank[:, None, :] < end[..., None]) & mask[:, None, :]
        weights = member.to(states.dtype)
        pooled = (weights @ states) / weights.sum(-1, keepdim=True)
        out: Tensor = self.mlp(pooled)
        return out
