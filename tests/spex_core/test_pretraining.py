from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from spex_core.bands import SENTINEL2_BANDS
from spex_core.legend import Legend
from spex_core.pretraining import (
    PATCH_PX,
    MaskedReconstruction,
    ReconstructionHead,
    distinctiveness,
    hidden_parts,
    reconstruction_loss_sum,
)  # fmt: skip
from spex_core.training import Stage, TrainingConfig, train
from tests.spex_core.conftest import build_tiny_model
from tests.spex_core.test_training import TwoHalves, curve


@pytest.fixture
def meadow_with_a_town() -> np.ndarray:
    """128 px of grass with one patch, row 2 and column 5, of roofs and trees."""
    rng = np.random.default_rng(0)
    grass = np.array([0.04, 0.07, 0.05, 0.11, 0.30, 0.38, 0.40, 0.41, 0.20, 0.11], np.float32)
    roofs = np.array([0.14, 0.16, 0.18, 0.19, 0.20, 0.21, 0.22, 0.23, 0.26, 0.24], np.float32)
    image = grass[:, None, None] + rng.normal(0, 0.004, (10, 128, 128)).astype(np.float32)
    town = np.s_[:, 2 * PATCH_PX : 3 * PATCH_PX, 5 * PATCH_PX : 6 * PATCH_PX]
    image[town] = np.where(rng.random((PATCH_PX, PATCH_PX)) < 0.5, roofs[:, None, None], image[town])
    return image.astype(np.float32)


def test_what_stands_out_is_hidden_more_often(meadow_with_a_town: np.ndarray) -> None:
    score = distinctiveness(meadow_with_a_town)
    assert score.shape == (8, 8)
    assert np.unravel_index(score.argmax(), score.shape) == (2, 5)
    frequency = np.mean(
        [hidden_parts(meadow_with_a_town, np.random.default_rng(seed), share=0.25)[0] for seed in range(100)], axis=0
    )
    assert frequency[2, 5] > 0.8
    assert frequency.mean() < 0.45
    unguided = [
        hidden_parts(meadow_with_a_town, np.random.default_rng(seed), share=0.25, guidance=0, band_share=0)[0, 2, 5]
        for seed in range(100)
    ]
    assert np.mean(unguided) < 0.45


def test_the_share_of_hidden_patches_is_exact_and_bands_go_in_runs(meadow_with_a_town: np.ndarray) -> None:
    runs = 0
    for seed in range(20):
        hidden = hidden_parts(meadow_with_a_town, np.random.default_rng(seed), share=0.5)
        everywhere = hidden.all((1, 2))
        assert everywhere.sum() <= 4
        runs += bool(everywhere.any())
        if everywhere.any():
            assert np.ptp(np.flatnonzero(everywhere)) == everywhere.sum() - 1
        assert (hidden[~everywhere].sum((1, 2)) == 32).all()
    assert 4 < runs < 16  # about half of the views


def test_missing_bands_neither_guide_nor_count(meadow_with_a_town: np.ndarray, legend: Legend) -> None:
    image = meadow_with_a_town.copy()
    image[[SENTINEL2_BANDS.index(name) for name in ("B11", "B12")]] = np.nan
    assert np.isfinite(distinctiveness(image)).all()
    hidden = hidden_parts(image, np.random.default_rng(1))
    model = build_tiny_model(legend, band_encoding=True)
    module = MaskedReconstruction(model, ReconstructionHead(model.config))
    pixels, masks = torch.from_numpy(image)[None], torch.from_numpy(hidden)[None]
    predicted = module(pixels, masks, torch.full((1, 10), 10.0))
    total, count = reconstruction_loss_sum(predicted, pixels, masks, model.config)
    assert int(count) == 16 * int(hidden[:8].sum())
    (total / count).backward()
    gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_the_encoder_sees_nothing_of_what_is_hidden(meadow_with_a_town: np.ndarray, legend: Legend) -> None:
    model = build_tiny_model(legend, band_encoding=True)
    module = MaskedReconstruction(model, ReconstructionHead(model.config)).eval()
    hidden = torch.from_numpy(hidden_parts(meadow_with_a_town, np.random.default_rng(2)))[None]
    pixels = torch.from_numpy(meadow_with_a_town)[None]
    grown = hidden.repeat_interleave(PATCH_PX, -2).repeat_interleave(PATCH_PX, -1)
    other = torch.where(grown, torch.rand(pixels.shape, generator=torch.Generator().manual_seed(0)), pixels)
    gsd = torch.full((1, 10), 10.0)
    assert torch.equal(module(pixels, hidden, gsd), module(other, hidden, gsd))
    shown = torch.where(grown, pixels, pixels + 0.05)
    assert not torch.equal(module(pixels, hidden, gsd), module(shown, hidden, gsd))


def test_pretraining_learns_and_leaves_the_language_model_alone(
    tmp_path: Path, tiles: torch.Tensor, legend: Legend
) -> None:
    model = build_tiny_model(legend)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = TrainingConfig(
        stages=(Stage(40, 4, 64, "pretrain"),), learning_rate=1e-2, warmup_steps=5, record_every=5, checkpoint_every=99
    )
    after = train(model, [(TwoHalves(tiles, legend), 1.0)], legend, config, tmp_path).state_dict()
    losses = [row["reconstruction"] for row in curve(tmp_path)]
    assert losses[-1] < 0.8 * losses[0], losses
    moved = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {"encoder", "aggregator"}
