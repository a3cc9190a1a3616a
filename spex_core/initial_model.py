"""A model to begin a training with: random weights, normalisation of its chips, and a tokenizer learnt from prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from spex_core.answers import corpus
from spex_core.batches import ChipSource
from spex_core.configuration import SpexConfig
from spex_core.errors import ModelInputError
from spex_core.legend import Legend
from spex_core.modeling import SpexForLandCover
from spex_core.processing import SpexProcessor
from spex_core.prompts import END_OF_TURN, SYSTEM_PREFIX, USER_SUFFIX
from spex_core.tokenizer import build_tokenizer

OTHER_NOUNS = (
    "vegetation", "forest", "mangrove", "moss and lichen", "river", "lake", "sea", "road", "building", "impervious",
    "orchard", "vineyard", "rice paddy", "wheat", "maize", "burned area", "sand", "rock", "flooded", "solar panel",
)  # fmt: skip
"""Nouns of legends other than the default: the tokenizer learns them, the weights do not."""
ASKED_CHIPS, MEASURED_CHIPS = 40, 200
"""Chips whose prompts the tokenizer learns from, and chips that the normalisation is measured on."""
ANSWERED_MAPS = 300
"""Random label maps whose answers the tokenizer learns from."""
DRAFT_TOKENS = 300


def initial_model(
    chips: ChipSource, legend: Legend, seed: int, *, vocabulary: int = 1024, config: Mapping[str, Any] | None = None
) -> SpexForLandCover:
    """A freshly initialised model; the same for the same chips, legend and seed.

    Args:
        chips: What it will be trained on.
        legend: The classes that prompts and answers name.
        seed: Of the weights, and of the answers that the tokenizer learns from.
        vocabulary: Most tokens.
        config: Fields of :class:`SpexConfig` that are not the default.

    Raises:
        ModelInputError: ``config`` has a field that there is none of, or a value that cannot be.
    """
    changes = dict(config or {})
    # Prompts are laid out as the configuration says, so a draft of it comes first; its sizes do not matter yet.
    draft = _configured(changes)
    tokenizer = build_tokenizer(
        _prompts(chips, legend, _processor(build_tokenizer(["draft"], DRAFT_TOKENS), draft), seed), vocabulary
    )
    mean, std = band_statistics(chips)
    final = _configured({"band_mean": mean, "band_std": std} | changes)
    final.text.vocab_size = len(tokenizer)
    final.text.eos_token_id = tokenizer.eos_token_id
    final.text.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(seed)
    model = SpexForLandCover(final)
    model.processor = _processor(tokenizer, final)
    return model


def band_statistics(chips: ChipSource) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each band over every eighth pixel of the first chips, missing bands left out."""
    reflectance = [chips.chip(i)[0][:, ::8, ::8] for i in range(min(len(chips), MEASURED_CHIPS))]
    sample = np.concatenate([array.reshape(len(array), -1) for array in reflectance], axis=1)
    present = ~np.isnan(sample)
    if not present.any(1).all():
        raise ModelInputError(
            "no chip of the first source has all ten bands, so their normalisation cannot be measured"
        )
    mean, std = (f(sample, axis=1) for f in (np.nanmean, np.nanstd))
    return [round(float(v), 4) for v in mean], [round(float(v), 4) for v in std]


def _configured(changes: Mapping[str, Any]) -> SpexConfig:
    if unknown := sorted(set(changes) - set(SpexConfig().to_dict())):
        raise ModelInputError(f"a model has no setting {', '.join(unknown)}; see spex_core/configuration.py")
    try:
        return SpexConfig(**changes)
    except Exception as error:  # the strict dataclass of transformers has error types of its own
        raise ModelInputError(f"model settings cannot be: {' '.join(str(error).split())}") from error


def _processor(tokenizer: Any, config: SpexConfig) -> SpexProcessor:
    return SpexProcessor(
        tokenizer,
        bands=config.bands,
        attribute_records=config.attribute_records,
        attribute_fields=config.attribute_fields,
        digits=config.attribute_digits,
    )


def _prompts(chips: ChipSource, legend: Legend, processor: SpexProcessor, seed: int) -> list[str]:
    """Questions and answers in a fixed order."""
    texts = [SYSTEM_PREFIX, USER_SUFFIX, END_OF_TURN]
    for index in range(min(ASKED_CHIPS, len(chips))):
        texts += processor.questions(chips.chip(index)[0], legend, max_records=3)
    nouns = [entry.noun for entry in legend]
    nouns += [noun for noun in OTHER_NOUNS if noun not in nouns]
    return texts + corpus(nouns, np.random.default_rng(seed), ANSWERED_MAPS)
