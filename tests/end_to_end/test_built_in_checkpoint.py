"""What the committed weights must do, whatever else changes about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.simulation import simulate_chip
from spex_core import Legend, SpexForLandCover, resolve_checkpoint
from spex_core.answers import check, supported_share
from spex_core.bands import BAND_SETS, SENTINEL2_BANDS, band_slots

SEED = 900_004
"""Of a simulated world that no training uses."""
LARGEST_CHECKPOINT_BYTES = 25_000_000


@pytest.fixture(scope="module")
def model() -> SpexForLandCover:
    torch.set_num_threads(1)
    return SpexForLandCover.from_pretrained(resolve_checkpoint("spex-s2-tiny"))


@pytest.fixture(scope="module")
def chip() -> tuple[torch.Tensor, np.ndarray]:
    pixels, codes = simulate_chip(SEED, 128, season=0.5)
    return torch.from_numpy(pixels)[None], codes


def test_the_mask_changes_with_the_class_that_the_prompt_asks_for(
    model: SpexForLandCover, chip: tuple[torch.Tensor, np.ndarray]
) -> None:
    legend, processor = Legend.from_yaml(), model.processor
    pixels, codes = chip
    text = processor.encode(processor.questions(pixels[0].numpy(), legend), processor.short_answers(legend))
    with torch.inference_mode():
        masks = (model(pixels, text).mask_logits[0] > 0).numpy()
    common = [k for k, entry in enumerate(legend) if (codes == entry.code).mean() > 0.1]
    assert len(common) >= 2, "the chip shows too little; choose another seed"
    for k in common:
        truth = codes == legend.codes[k]
        overlaps = [(mask & truth).sum() / (mask | truth).sum() for mask in masks]
        assert int(np.argmax(overlaps)) == k, (legend.classes[k].name, overlaps)


def test_fewer_bands_still_give_most_of_the_map(model: SpexForLandCover, chip: tuple[torch.Tensor, np.ndarray]) -> None:
    legend = Legend.from_yaml()
    pixels, _ = chip
    whole = model.predict(pixels, legend).scores.argmax(1)
    for name in ("rgb-nir", "hls"):
        slots, bands = band_slots(BAND_SETS[name])
        part = model.predict(pixels[:, list(slots)], legend, bands=bands).scores.argmax(1)
        assert (part == whole).float().mean() > 0.6, name
    assert model.config.bands == SENTINEL2_BANDS


def test_the_checkpoint_is_small() -> None:
    folder = Path(resolve_checkpoint("spex-s2-tiny"))
    assert sum(file.stat().st_size for file in folder.rglob("*")) < LARGEST_CHECKPOINT_BYTES


def test_most_of_what_it_says_is_true(model: SpexForLandCover) -> None:
    legend = Legend.from_yaml()
    pixels, codes = simulate_chip(SEED + 1, 256, season=0.5)
    prediction = model.predict(torch.from_numpy(pixels)[None], legend, explain="full")
    masks = {entry.noun: codes == entry.code for entry in legend}
    said, written = (
        [
            claim
            for noun, text in zip(masks, texts[0], strict=True)
            for claim in check(text, noun, masks[noun], pixels, {n: m for n, m in masks.items() if n != noun})
        ]
        for texts in (prediction.texts, prediction.written)
    )
    assert len(said) >= 5
    assert supported_share(said) >= 0.85
    assert supported_share(said) > supported_share(written)


def test_coarse_pixels_give_nearly_the_same_map(model: SpexForLandCover) -> None:
    legend = Legend.from_yaml()
    pixels, codes = simulate_chip(SEED, 192, season=0.5)
    coarse = pixels.reshape(10, 64, 3, 64, 3).mean((2, 4))
    truth = (codes[None] == np.array(legend.codes)[:, None, None]).reshape(9, 64, 3, 64, 3).mean((2, 4))
    slots, bands = band_slots(BAND_SETS["landsat"])
    scores = model.predict(torch.from_numpy(coarse[list(slots)])[None], legend, bands=bands).scores[0].numpy()
    clear = truth.max(0) > 0.5
    assert (scores.argmax(0) == truth.argmax(0))[clear].mean() > 0.6
