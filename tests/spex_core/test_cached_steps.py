"""Steps with a cache of its own give what transformers' own steps give."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2Config
from transformers.cache_utils import DynamicCache

from spex_core.cached_steps import CachedSteps
from spex_core.language_model import build_language_model


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@torch.no_grad()
def test_steps_are_those_of_transformers_for_rows_of_any_length(kv_heads: int) -> None:
    torch.manual_seed(kv_heads)
    config = Qwen2Config(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=kv_heads, max_position_embeddings=64,
    )  # fmt: skip
    model = build_language_model(config).eval().double()
    rows, length, steps = 5, 7, 6
    read = torch.randint(0, 50, (rows, length))
    lengths = torch.tensor([7, 3, 5, 1, 7])
    seen = (torch.arange(length)[None] < lengths[:, None]).long()
    cache = DynamicCache(config=config)
    model(input_ids=read, attention_mask=seen, past_key_values=cache, use_cache=True)
    own = CachedSteps(model, cache, seen, lengths.clone(), steps)
    going = torch.ones(rows, dtype=torch.bool)
    tokens = torch.randint(0, 50, (steps, rows))
    mask, position = seen, lengths
    for place in range(steps):
        going = going & torch.tensor([True, place < 1, place < 3, place < 2, True])
        mask = torch.cat([mask, torch.ones(rows, 1, dtype=torch.long)], 1)
        expected = model(
            input_ids=tokens[place][:, None], attention_mask=mask, position_ids=position[:, None],
            past_key_values=cache, use_cache=True,
        ).last_hidden_state[:, 0]  # fmt: skip
        found = own.step(tokens[place], going)
        torch.testing.assert_close(found[going], expected[going], rtol=1e-9, atol=1e-11)
        position = position + 1
