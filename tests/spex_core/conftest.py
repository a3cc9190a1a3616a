"""A tiny random model: real architecture, real tokenizer, random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config

from spex_core.configuration import SpexConfig
from spex_core.legend import Legend
from spex_core.modeling import SpexForLandCover
from spex_core.processing import SpexProcessor
from spex_core.prompts import END_OF_TURN, SYSTEM_PREFIX, USER_SUFFIX, short_answer
from spex_core.tokenizer import build_tokenizer

torch.set_num_threads(1)  # tiny tensors: waiting for a second thread costs more than it does


@pytest.fixture(scope="session")
def legend() -> Legend:
    return Legend.from_yaml()


def build_tiny_model(legend: Legend, seed: int = 0, *, band_encoding: bool = False) -> SpexForLandCover:
    """A model of a few ten thousand weights."""
    texts = [SYSTEM_PREFIX, USER_SUFFIX, END_OF_TURN, "[0.12, 0.34]", *(short_answer(entry.noun) for entry in legend)]
    tokenizer = build_tokenizer(texts * 3, 400)
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(seed)
    config = SpexConfig(
        band_encoding=band_encoding,
        channels=8,
        depths=(1, 1, 1, 1),
        aggregator_channels=32,
        condensation_widths=(24,),
        decoder_width=16,
        decoder_heads=2,
        decoder_mlp=24,
        detail_channels=8,
        text_config=text.to_dict(),
    )
    model = SpexForLandCover(config)
    model.processor = SpexProcessor(tokenizer)
    model.eval()
    return model


@pytest.fixture(scope="session")
def tiny_model(legend: Legend) -> SpexForLandCover:
    return build_tiny_model(legend)


@pytest.fixture
def tiles() -> torch.Tensor:
    """Two 64 px tiles of plausible reflectance: vegetation left, water right."""
    rng = np.random.default_rng(0)
    vegetation = np.array([0.03, 0.05, 0.03, 0.08, 0.22, 0.28, 0.30, 0.31, 0.15, 0.07])
    water = np.array([0.05, 0.05, 0.03, 0.02, 0.01, 0.01, 0.01, 0.01, 0.005, 0.003])
    image = np.where(np.arange(64) < 40, vegetation[:, None, None], water[:, None, None])
    batch = np.broadcast_to(image, (2, 10, 64, 64)) + rng.normal(0, 0.004, (2, 10, 64, 64))
    return torch.from_numpy(batch.astype(np.float32))
