from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from spex_core.legend import Legend
from spex_core.losses import dice_loss, mask_losses
from spex_core.training import Stage, TrainingConfig, train
from tests.spex_core.conftest import build_tiny_model

CONFIG = TrainingConfig(
    stages=(Stage(4, 2, 32, False), Stage(6, 2, 32, True)),
    learning_rate=3e-3,
    warmup_steps=2,
    checkpoint_every=5,
)


class TwoHalves:
    """Vegetation left, water right."""

    def __init__(self, tiles: torch.Tensor, legend: Legend) -> None:
        self.pixels = tiles[0].numpy()
        self.target = np.zeros((len(legend), 64, 64), np.float32)
        self.target[legend.codes.index(10), :, :40] = 1
        self.target[legend.codes.index(80), :, 40:] = 1

    def __len__(self) -> int:
        return 1

    def chip(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.pixels, self.target, np.ones((64, 64), np.float32)


def run(folder: Path, tiles: torch.Tensor, legend: Legend, config: TrainingConfig = CONFIG) -> dict[str, torch.Tensor]:
    trained = train(build_tiny_model(legend), [(TwoHalves(tiles, legend), 1.0)], legend, config, folder, log=str)
    return trained.state_dict()


def test_a_resumed_training_ends_with_the_same_weights(tmp_path: Path, tiles: torch.Tensor, legend: Legend) -> None:
    whole = run(tmp_path / "whole", tiles, legend)

    class Interrupted(Exception):
        pass

    def stop(line: str) -> None:
        raise Interrupted

    model = build_tiny_model(legend)
    chips = TwoHalves(tiles, legend)
    with pytest.raises(Interrupted):  # the validation line at step 5 comes right after the checkpoint
        train(model, [(chips, 1.0)], legend, CONFIG, tmp_path / "cut", (chips, [0]), log=stop)
    resumed = run(tmp_path / "cut", tiles, legend)
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, msg=name)


def test_training_learns_two_classes(tmp_path: Path, tiles: torch.Tensor, legend: Legend) -> None:
    config = dataclasses.replace(CONFIG, stages=(Stage(60, 2, 32, True),), checkpoint_every=1000)
    run(tmp_path, tiles, legend, config)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    joint = [row["joint"] for row in rows if "joint" in row]
    assert joint[-1] < 0.5 * joint[0], joint


def test_gradient_checkpointing_changes_no_gradient(tiles: torch.Tensor, legend: Legend) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = build_tiny_model(legend).double()
        if checkpointing:
            model.activation_checkpointing_enable()
        model.train()
        processor = model.processor
        questions = [question for tile in tiles.numpy() for question in processor.questions(tile, legend)]
        output = model(tiles.double(), processor.encode(questions, processor.short_answers(legend) * len(tiles)))
        (output.mask_logits.square().mean() + output.text_logits.square().mean()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, atol=1e-9, rtol=1e-7, msg=name)


def test_a_perfect_mask_has_no_dice_loss_and_an_empty_one_the_most() -> None:
    target = torch.zeros(1, 100)
    target[:, :30] = 1
    assert float(dice_loss((target * 2 - 1) * 50, target)) == pytest.approx(0, abs=1e-4)
    assert float(dice_loss(torch.full((1, 100), -50.0), target)) == pytest.approx(1, abs=1e-4)


def test_unlabelled_pixels_have_no_gradient() -> None:
    logits = torch.randn(1, 3, 8, 8, requires_grad=True)
    target = torch.zeros(1, 3, 8, 8)
    target[:, 0] = 1
    weight = torch.ones(1, 8, 8)
    weight[:, :4] = 0
    sum(mask_losses(logits, target, weight).values()).backward()
    assert logits.grad[:, :, :4].abs().max() == 0
    assert logits.grad[:, :, 4:].abs().min() > 0
