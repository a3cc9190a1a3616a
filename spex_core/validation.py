"""How many pixels of labelled chips a model in training gets right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from spex_core.batches import ChipSource
from spex_core.legend import Legend
from spex_core.modeling import SpexForLandCover


def pixel_hits(
    model: SpexForLandCover, source: ChipSource, indices: Sequence[int], legend: Legend, *, words: bool = False
) -> tuple[float, float]:
    """Weight of pixels whose best class is the target's, and of all labelled pixels, over whole chips.

    Args:
        model: With its processor set.
        source: Labelled chips.
        indices: Which of them.
        legend: The classes that are asked.
        words: Whether class words alone prompt the masks, as in stages of class words: a language model that has not
            learnt to read an image yet would be put off by one.
    """
    hits, count = 0.0, 0.0
    for index in indices:
        reflectance, target, weight = source.chip(index)
        present = ~np.isnan(reflectance[:, 0, 0])
        if words:
            scores = _by_class_words(model, torch.from_numpy(reflectance), legend)
        else:
            bands = [name for name, here in zip(model.config.bands, present, strict=True) if here]
            predicted = model.predict(
                torch.from_numpy(reflectance[present])[None], legend, bands=None if present.all() else bands
            )
            assert predicted.scores is not None
            scores = predicted.scores[0]
        agree = scores.argmax(0).cpu().numpy() == target.argmax(0)
        hits += float((agree * weight).sum())
        count += float(weight.sum())
    return hits, count


@torch.inference_mode()
def _by_class_words(model: SpexForLandCover, reflectance: Tensor, legend: Legend) -> Tensor:
    """Mask logits ``[K, H, W]`` of one chip ``[10, H, W]``, NaN in missing bands."""
    assert model.processor is not None
    text = model.processor.class_words(legend).to(model.device)
    logits = model(reflectance[None].to(model.device), text, see_image=False).mask_logits[0]
    if logits.shape[-2:] != reflectance.shape[-2:]:
        logits = torch.nn.functional.interpolate(logits[None], reflectance.shape[-2:], mode="bilinear")[0]
    found: Tensor = logits
    return found
