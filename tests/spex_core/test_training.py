from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from spex_core.batches import Recipe, step_batch, step_batches
from spex_core.errors import CheckpointError, TrainingError
from spex_core.legend import Legend
from spex_core.losses import class_weights, dice_per_mask, mask_loss_sums
from spex_core.modeling import SpexForLandCover
from spex_core.training import Stage, TrainingConfig, Worker, pixel_hits, spans, train
from tests.spex_core.conftest import build_tiny_model

CONFIG = TrainingConfig(
    stages=(Stage(2, 2, 32, "pretrain"), Stage(3, 2, 32, "words"), Stage(5, 2, 32, "prompt")),
    learning_rate=3e-3,
    warmup_steps=2,
    checkpoint_every=4,
    record_every=1,
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
    trained = train(build_tiny_model(legend), [(TwoHalves(tiles, legend), 1.0)], legend, config, folder)
    return trained.state_dict()


def curve(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "training" / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


class Killed(Exception):
    pass


def killed_at(step: int) -> Callable[[Mapping[str, object]], None]:
    def die(record: Mapping[str, object]) -> None:
        if record["step"] == step:
            raise Killed

    return die


def test_a_resumed_training_has_the_same_curve_and_weights(tmp_path: Path, tiles: torch.Tensor, legend: Legend) -> None:
    whole = run(tmp_path / "whole", tiles, legend)
    chips = TwoHalves(tiles, legend)
    for step in (3, 9):  # before the first checkpoint, and between two
        with pytest.raises(Killed):
            train(build_tiny_model(legend), [(chips, 1.0)], legend, CONFIG, tmp_path / "cut", on_record=killed_at(step))
    resumed = run(tmp_path / "cut", tiles, legend)
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=0, msg=name)


def test_a_training_of_other_settings_is_not_resumed(tmp_path: Path, tiles: torch.Tensor, legend: Legend) -> None:
    run(tmp_path, tiles, legend)
    with pytest.raises(CheckpointError, match="learning_rate differs; remove"):
        run(tmp_path, tiles, legend, dataclasses.replace(CONFIG, learning_rate=1e-4))


def test_a_truncated_state_is_a_checkpoint_error(tmp_path: Path, tiles: torch.Tensor, legend: Legend) -> None:
    run(tmp_path, tiles, legend)
    state = tmp_path / "training" / "state.pt"
    state.write_bytes(state.read_bytes()[:10_000])
    with pytest.raises(CheckpointError, match=r"state\.pt cannot be resumed from"):
        run(tmp_path, tiles, legend)


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path: Path, tiles: torch.Tensor, legend: Legend) -> None:
    model = build_tiny_model(legend)
    next(model.aggregator.parameters()).data.fill_(torch.nan)
    with pytest.raises(TrainingError, match="not finite at step 1"):
        train(model, [(TwoHalves(tiles, legend), 1.0)], legend, CONFIG, tmp_path)


def test_training_learns_two_classes(tmp_path: Path, tiles: torch.Tensor, legend: Legend) -> None:
    config = dataclasses.replace(CONFIG, stages=(Stage(50, 2, 32),), checkpoint_every=99, record_every=10)
    run(tmp_path, tiles, legend, config)
    joint = [row["joint"] for row in curve(tmp_path)]
    assert joint[-1] < 0.5 * joint[0], joint


def test_exported_checkpoints_load_and_the_best_is_the_best_validated(
    tmp_path: Path, tiles: torch.Tensor, legend: Legend
) -> None:
    chips = TwoHalves(tiles, legend)
    trained = train(build_tiny_model(legend), [(chips, 1.0)], legend, CONFIG, tmp_path, (chips, [0]))
    last, best = (SpexForLandCover.from_pretrained(tmp_path / name) for name in ("last", "best"))
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(last.state_dict()[name], value, rtol=1e-3, atol=1e-3, msg=name)
    hits, count = pixel_hits(best, chips, [0], legend)
    best_seen = max(row["validation_accuracy"] for row in curve(tmp_path) if "validation_accuracy" in row)
    assert hits / count == pytest.approx(best_seen, abs=0.02)  # rounded to half precision


def test_bfloat16_moves_losses_by_less_than_a_percent(tmp_path: Path, tiles: torch.Tensor, legend: Legend) -> None:
    stages = tuple(dataclasses.replace(stage, steps=1) for stage in CONFIG.stages)
    config = dataclasses.replace(CONFIG, stages=stages)
    for bf16 in (False, True):
        chips = TwoHalves(tiles, legend)
        worker = Worker(bf16=bf16)
        train(build_tiny_model(legend), [(chips, 1.0)], legend, config, tmp_path / str(bf16), worker=worker)
    exact, rounded = (curve(tmp_path / name) for name in ("False", "True"))
    assert [row["total"] for row in rounded] == pytest.approx([row["total"] for row in exact], rel=0.01)
    assert rounded != exact


def test_a_stage_that_restarts_has_a_schedule_of_its_own() -> None:
    config = TrainingConfig(
        stages=(Stage(10, 2, 32), Stage(30, 2, 32, learning_rate_factor=0.5, restart=True), Stage(10, 2, 32)),
        learning_rate=1.0,
        warmup_steps=5,
    )
    laid = spans(config.stages)
    assert [(span.origin, span.length) for span in laid] == [(0, 10), (10, 40), (10, 40)]
    assert laid[0].learning_rate(9, config) < 0.06  # at the end of a cosine
    assert laid[1].learning_rate(10, config) == pytest.approx(0.1)  # warming up again, to half the rate
    assert laid[1].learning_rate(15, config) > 0.4
    assert laid[2].learning_rate(49, config) == pytest.approx(0.02, abs=0.01)


def test_workers_share_a_step_without_changing_it(tiles: torch.Tensor, legend: Legend) -> None:
    model = build_tiny_model(legend)
    recipe = Recipe((TwoHalves(tiles, legend),), (1.0,), legend, model.processor, 5, 0.3, needs_all_bands=True)
    stage = Stage(1, 3, 32)
    whole = step_batch(recipe, stage, 7)
    parts = [step_batch(recipe, stage, 7, rank, 2) for rank in range(2)]
    assert torch.equal(whole.reflectance[0::2], parts[0].reflectance)
    assert torch.equal(whole.reflectance[1::2], parts[1].reflectance)
    assert not torch.equal(whole.reflectance, step_batch(recipe, stage, 8).reflectance)
    ahead = list(step_batches(recipe, stage, range(7, 9), loaders=1))
    assert torch.equal(whole.reflectance, ahead[0].reflectance)
    assert torch.equal(whole.text.suffix_ids, ahead[0].text.suffix_ids)


def test_means_over_a_batch_are_sums_over_its_parts() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(3, 4, 8, 8, generator=generator)
    targets = torch.randn(3, 4, 8, 8, generator=generator).softmax(1)
    targets[0, 2] = 0
    weight = (torch.rand(3, 8, 8, generator=generator) > 0.4).float()
    whole = mask_loss_sums(logits, targets, weight)
    parts = [mask_loss_sums(logits[rows], targets[rows], weight[rows]) for rows in (slice(0, 1), slice(1, 3))]
    for name, sums in whole.items():
        for i, value in enumerate(sums):
            torch.testing.assert_close(sum(part[name][i] for part in parts), value, check_dtype=False)


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
    assert float(dice_per_mask((target * 2 - 1) * 50, target)) == pytest.approx(0, abs=1e-4)
    assert float(dice_per_mask(torch.full((1, 100), -50.0), target)) == pytest.approx(1, abs=1e-4)


def test_unlabelled_pixels_have_no_gradient() -> None:
    logits = torch.randn(1, 3, 8, 8, requires_grad=True)
    target = torch.zeros(1, 3, 8, 8)
    target[:, 0] = 1
    weight = torch.ones(1, 8, 8)
    weight[:, :4] = 0
    sum(total / count for total, count in mask_loss_sums(logits, target, weight).values()).backward()
    assert logits.grad[:, :, :4].abs().max() == 0
    assert logits.grad[:, :, 4:].abs().min() > 0


def test_rare_classes_weigh_more_and_the_sum_of_weights_stays() -> None:
    counts = torch.tensor([900.0, 90.0, 10.0, 0.0])
    assert torch.allclose(class_weights(counts, 0.0), torch.ones(4))
    for balance in (0.3, 1.0):
        weights = class_weights(counts, balance)
        assert weights[0] < weights[1] < weights[2]
        assert float((weights * counts).sum()) == pytest.approx(1000.0, rel=1e-5)


def test_the_language_model_rests_while_class_words_alone_are_asked(
    tmp_path: Path, tiles: torch.Tensor, legend: Legend
) -> None:
    before = {name: value.clone() for name, value in build_tiny_model(legend).state_dict().items()}
    config = dataclasses.replace(CONFIG, stages=(Stage(3, 2, 32, "words"),), class_balance=0.5)
    after = run(tmp_path, tiles, legend, config)
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert not {name for name in moved if name.startswith("language_model.")}
    assert {"condensation.", "encoder.", "mask_decoder."} <= {name.split(".")[0] + "." for name in moved}
