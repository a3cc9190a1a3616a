"""Many questions about many images, answered in one pass of the language model.

Each image is looked at once and read once, whatever is asked about it; all questions are read together, and answers are
written row beside row.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import torch

from spex_core.asked_images import AskedImage
from spex_core.bands import BANDS
from spex_core.modeling import SpexForLandCover

_TOKENIZER = threading.Lock()
"""Fast tokenizers refuse to work for two threads at once."""


def answer_images(model: SpexForLandCover, images: Sequence[AskedImage], new_tokens: int) -> list[list[str]]:
    """Answers, by image and question; empty ones where questions do not fit into the model's context.

    Args:
        model: With its processor.
        images: Of one size; each with at least one question.
        new_tokens: Longest answer.
    """
    assert model.processor is not None
    asked = [question for image in images for question in image.questions]
    with _TOKENIZER:
        text = model.processor.encode([question.text for question in asked], None)
    sampling = torch.tensor([[max(image.pixel_m, band.gsd_m) for band in BANDS] for image in images])
    with torch.inference_mode():
        pixels = torch.from_numpy(np.stack([image.pixels for image in images]))
        tokens = model.look(pixels, sampling if model.config.band_encoding else None)
        context = text.prefix_ids.numel() + tokens.shape[1] + text.suffix_ids.shape[1] + new_tokens
        if context > model.config.text.max_position_embeddings:
            return [[""] * len(image.questions) for image in images]
        cache = model.read_prefix(text.prefix_ids, tokens, 1)
        cache.batch_select_indices(torch.tensor([place for place, image in enumerate(images) for _ in image.questions]))
        states = model.read_suffix(text, cache)
        quotes = [question.quotes for question in asked]
        written = model.write_answers(text, states, cache, new_tokens, quotes)
    with _TOKENIZER:
        said = iter(written.texts(model.processor.decode))
    return [[next(said) for _ in image.questions] for image in images]
