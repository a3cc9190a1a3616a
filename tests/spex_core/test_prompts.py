"""What the built-in checkpoint is asked for decides what it outlines."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spex_core import Legend, SpexForLandCover, resolve_checkpoint
from spex_core.legend import LegendClass

CROPS = (0.03, 0.05, 0.03, 0.08, 0.22, 0.28, 0.30, 0.31, 0.15, 0.07)
LAKE = (0.05, 0.05, 0.03, 0.02, 0.01, 0.01, 0.01, 0.01, 0.005, 0.003)


@pytest.fixture(scope="module")
def model() -> SpexForLandCover:
    torch.set_num_threads(1)
    return SpexForLandCover.from_pretrained(resolve_checkpoint("spex-s2-tiny"))


def scores(model: SpexForLandCover, pixels: np.ndarray, *nouns: str) -> np.ndarray:
    legend = Legend("asked", "Asked", tuple(LegendClass(k + 1, n, n, "#000000") for k, n in enumerate(nouns)))
    found = model.predict(torch.from_numpy(pixels)[None], legend).scores
    assert found is not None
    return found[0].numpy()


def test_masks_follow_the_class_that_the_prompt_asks_for(model: SpexForLandCover) -> None:
    water = np.hypot(*(np.indices((128, 128)) - 60)) < 35
    image = np.where(water, np.array(LAKE)[:, None, None], np.array(CROPS)[:, None, None])
    pixels = (image + np.random.default_rng(0).normal(0, 0.004, image.shape)).astype(np.float32)
    asked, swapped = scores(model, pixels, "water", "cropland"), scores(model, pixels, "cropland", "water")
    # The same two questions in the other order: the masks change places with them.
    assert np.abs(asked - swapped[::-1]).max() < 1e-4
    assert np.abs(asked - swapped).mean() > 0.2
    # And the mask that was asked for as water is where water is.
    assert asked[0][water].mean() > asked[0][~water].mean() + 0.3
    # Another class in the same place of the legend gives another mask.
    grass = scores(model, pixels, "grassland", "cropland")
    assert ((grass[0] > 0.5) != (asked[0] > 0.5)).mean() > 0.3
