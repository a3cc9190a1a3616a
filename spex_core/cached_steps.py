"""One token at a time through a transformers Qwen2, for many rows at once.

The stock step joins the whole key/value cache to a new token's, and repeats it for every group of heads: of a small
model that is nearly all the time. Here keys and values lie in one place that is written into, heads of a group share
them, and rows that have ended are left out. The layers are the model's own modules.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb


class CachedSteps:
    """Keys and values of N rows, and the steps that add to them.

    Args:
        language_model: A Qwen2 model.
        cache: What the rows have read; left as it is.
        seen: bool or int ``[N, L]``, which of its L positions are tokens.
        positions: int64 ``[N]``, of the next token of each row.
        steps: Most steps.
    """

    def __init__(self, language_model: nn.Module, cache: DynamicCache, seen: Tensor, positions: Tensor, steps: int):
        model: Any = language_model
        self._model, self._layers = model, list(model.layers)
        rows, length = seen.shape
        self._length = length
        self._positions = positions
        self._hidden_rows = rows
        self._rows = torch.arange(rows, device=seen.device)
        self._bias = torch.zeros(rows, 1, 1, length + steps, dtype=torch.float32, device=seen.device)
        self._bias[:, 0, 0, :length].masked_fill_(seen == 0, -torch.inf)
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        kept: Any = cache.layers
        for layer in kept:
            for store, have in ((self._keys, layer.keys), (self._values, layer.values)):
                room = have.new_zeros(rows, have.shape[1], length + steps, have.shape[3])
                room[:, :, :length] = have
                store.append(room)

    def step(self, tokens: Tensor, going: Tensor) -> Tensor:
        """Adds a token to every row that is still going.

        Args:
            tokens: int64 ``[N]``.
            going: bool ``[N]``; rows that were left out once stay so.

        Returns:
            float ``[N, hidden]`` after the final norm; of rows that have ended anything finite.
        """
        self._leave_out(going)
        rows = self._rows
        hidden = self._model.embed_tokens(tokens[rows][:, None])
        turn = self._model.rotary_emb(hidden, self._positions[rows][:, None])
        end = self._length + 1
        bias = self._bias[..., :end]
        for index, layer in enumerate(self._layers):
            hidden = hidden + self._attention(index, layer.self_attn, layer.input_layernorm(hidden), turn, bias)
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        self._length = end
        self._positions = self._positions + 1
        found: Tensor = self._model.norm(hidden)[:, 0]
        if len(rows) == self._hidden_rows:
            return found
        whole = found.new_zeros(self._hidden_rows, found.shape[1])
        whole[rows] = found
        return whole

    def _attention(self, index: int, attention: Any, hidden: Tensor, turn: tuple[Tensor, Tensor], bias: Tensor) -> Any:
        rows, width = hidden.shape[0], attention.head_dim
        query = attention.q_proj(hidden).view(rows, 1, -1, width).transpose(1, 2)
        key = attention.k_proj(hidden).view(rows, 1, -1, width).transpose(1, 2)
        value = attention.v_proj(hidden).view(rows, 1, -1, width)
        query, key = apply_rotary_pos_emb(query, key, *turn)
        keys, values = self._keys[index], self._values[index]
        keys[:, :, self._length] = key[:, :, 0]
        values[:, :, self._length] = value[:, 0]
        end = self._length + 1
        groups = query.reshape(rows, keys.shape[1], -1, width)  # heads that share a key lie beside each other
        scores = groups @ keys[:, :, :end].transpose(2, 3) * attention.scaling
        exact = torch.promote_types(scores.dtype, torch.float32)
        weights = (scores.to(exact) + bias.to(exact)).softmax(-1).to(values.dtype)
        return attention.o_proj((weights @ values[:, :, :end]).reshape(rows, 1, -1))

    def _leave_out(self, going: Tensor) -> None:
        """Drops rows that have ended, once they are half of those that are held: dropping copies the others."""
        stays = going[self._rows]
        if 2 * int(stays.sum()) > len(self._rows):
            return
        self._rows, self._bias = self._rows[stays], self._bias[stays]
        self._keys = [keys[stays] for keys in self._keys]
        self._values = [values[stays] for values in self._values]
