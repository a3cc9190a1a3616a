from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from spex_core.describing import LEARNING, PromptAnchor, anchor_loss_sum
from spex_core.legend import Legend
from spex_core.training import Stage, train
from spex_core.validation import pixel_hits
from tests.spex_core.conftest import build_tiny_model
from tests.spex_core.test_training import CONFIG, Killed, TwoHalves, curve, killed_at, run

STAGES = (Stage(2, 2, 32, "words"), Stage(12, 2, 32, "describe", restart=True))
DESCRIBING = dataclasses.replace(CONFIG, stages=STAGES, checkpoint_every=5)


def test_describing_moves_the_language_side_alone(tmp_path: Path, tiles: torch.Tensor, legend: Legend) -> None:
    words = run(tmp_path / "words", tiles, legend, dataclasses.replace(DESCRIBING, stages=STAGES[:1]))
    both = run(tmp_path / "both", tiles, legend, DESCRIBING)
    moved = {name.split(".")[0] for name in words if not torch.equal(words[name], both[name])}
    assert moved == {"language_model", "projector", "condensation"}
    assert moved <= set(LEARNING)


def test_mask_prompts_are_drawn_to_those_of_the_class_words(
    tmp_path: Path, tiles: torch.Tensor, legend: Legend
) -> None:
    config = dataclasses.replace(DESCRIBING, stages=(STAGES[0], Stage(40, 2, 32, "describe", restart=True)))
    run(tmp_path, tiles, legend, config)
    rows = [row for row in curve(tmp_path) if row.get("stage") == "describe"]
    assert {"anchor", "text"} <= set(rows[0])
    assert "bce" not in rows[0]
    assert rows[-1]["anchor"] < 0.7 * rows[0]["anchor"]


def test_a_resumed_stage_of_descriptions_keeps_its_anchor(tmp_path: Path, tiles: torch.Tensor, legend: Legend) -> None:
    whole = run(tmp_path / "whole", tiles, legend, DESCRIBING)
    chips = TwoHalves(tiles, legend)
    with pytest.raises(Killed):
        train(build_tiny_model(legend), [(chips, 1.0)], legend, DESCRIBING, tmp_path / "cut", on_record=killed_at(8))
    resumed = run(tmp_path / "cut", tiles, legend, DESCRIBING)
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=0, msg=name)


def test_the_anchor_is_no_distance_from_itself_and_one_from_the_mean(legend: Legend) -> None:
    model = build_tiny_model(legend)
    anchor = PromptAnchor(model, [entry.noun for entry in legend], len(legend))
    anchor.set(model)
    assert anchor.prompts.abs().sum() > 0
    total, count = anchor_loss_sum(anchor.prompts[None], anchor)
    assert (float(total), float(count)) == (0.0, len(legend))
    total, count = anchor_loss_sum(anchor.prompts.mean(0).expand(2, len(legend), -1, -1), anchor)
    assert float(total / count) == pytest.approx(1.0)


def test_a_word_has_the_anchor_of_the_class_that_it_means_and_others_the_mean(legend: Legend) -> None:
    model = build_tiny_model(legend)
    nouns = [entry.noun for entry in legend]
    anchor = PromptAnchor(model, [*nouns, "lake", "music"], len(nouns), (*range(len(nouns)), 1, None))
    anchor.set(model)
    torch.testing.assert_close(anchor.prompts[: len(nouns)], model.class_word_prompts(legend))
    torch.testing.assert_close(anchor.prompts[-2], anchor.prompts[1])
    torch.testing.assert_close(anchor.prompts[-1], anchor.prompts[: len(nouns)].mean(0))


def test_class_words_alone_are_validated_without_the_image(tiles: torch.Tensor, legend: Legend) -> None:
    model = build_tiny_model(legend).eval()
    chips = TwoHalves(tiles, legend)
    before = pixel_hits(model, chips, [0], legend, words=True)
    model.projector[2].bias.data += 3.0  # only what the language model reads of the image changes
    assert pixel_hits(model, chips, [0], legend, words=True) == before
    assert before[1] == 64 * 64
