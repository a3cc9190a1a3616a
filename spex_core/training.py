"""Instruction tuning of a SPEX model on labelled chips: a plain, resumable loop for one process.

The prompts are computed from each chip's imagery by the legend's index rules, exactly as at run time; labels appear
only in targets and answers.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spex_core.augmentation import Chip, augment
from spex_core.errors import CheckpointError
from spex_core.legend import Legend
from spex_core.losses import mask_losses, text_loss
from spex_core.modeling import SpexForLandCover
from spex_core.prompts import described_answer, short_answer

FloatArray = npt.NDArray[np.float32]


class ChipSource(Protocol):
    """Labelled chips, all of one size."""

    def __len__(self) -> int: ...

    def chip(self, index: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Reflectance ``[10, H, W]`` (NaN: missing band), class probabilities ``[K, H, W]``, weight ``[H, W]``."""
        ...


@dataclass(frozen=True)
class Stage:
    """A stretch of training with fixed shapes."""

    steps: int
    batch: int
    crop_px: int
    see_image: bool
    """False: class words alone prompt the masks (cheap warm-up); True: the full prompt with image and attributes."""


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides the result, beside data and software."""

    stages: tuple[Stage, ...] = (Stage(600, 8, 128, False), Stage(1700, 8, 128, True), Stage(300, 2, 256, True))
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    warmup_steps: int = 100
    ema_decay: float = 0.995
    seed: int = 0
    weights: tuple[float, float, float, float] = (1.0, 2.0, 1.0, 2.0)
    """Of text cross-entropy, BCE, Dice (the paper's 1, 2, 1) and the joint cross-entropy over the legend."""
    band_subsets: float = 0.3
    """Share of training views that lose bands; only for models with ``band_encoding``."""
    checkpoint_every: int = 200

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def stage(self, step: int) -> Stage:
        """The stage that a step belongs to."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return self.stages[-1]


def answers_for(legend: Legend, target: FloatArray, weight: FloatArray, rng: np.random.Generator) -> list[str]:
    """One answer per class: mostly the short one that conditions masks at run time, else a true description."""
    style = rng.random()
    if style < 0.6 or weight.mean() < 0.9:
        return [short_answer(entry.noun) for entry in legend]
    best = target.argmax(0)
    return [
        described_answer(entry.noun, (best == k) & (weight > 0), full=style > 0.8) for k, entry in enumerate(legend)
    ]


def pixel_accuracy(model: SpexForLandCover, source: ChipSource, indices: Sequence[int], legend: Legend) -> float:
    """Share of labelled pixels whose best class is the target's, over whole chips."""
    hits, count = 0.0, 0.0
    model.eval()
    for index in indices:
        reflectance, target, weight = source.chip(index)
        scores = model.predict(torch.from_numpy(reflectance)[None], legend).scores
        assert scores is not None
        agree = scores[0].argmax(0).numpy() == target.argmax(0)
        hits += float((agree * weight).sum())
        count += float(weight.sum())
    return hits / max(count, 1.0)


def train(
    model: SpexForLandCover,
    sources: Sequence[tuple[ChipSource, float]],
    legend: Legend,
    config: TrainingConfig,
    folder: Path,
    validation: tuple[ChipSource, Sequence[int]] | None = None,
    log: Callable[[str], None] = print,
) -> SpexForLandCover:
    """Trains and returns the exponential moving average of the weights.

    Args:
        model: With its processor set.
        sources: Chips and their sampling weight.
        legend: The classes that are asked.
        config: Stages, optimiser and seed.
        folder: Holds ``state.pt`` (resume) and ``metrics.jsonl``.
        validation: Chips that are never trained on, and which of them to score.
        log: Receives a line every 20 steps.
    """
    if model.processor is None:
        raise CheckpointError("train() needs a model with its processor set")
    if not model.config.band_encoding:
        config = replace(config, band_subsets=0.0)
    torch.manual_seed(config.seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    average: SpexForLandCover = copy.deepcopy(model)
    average.eval()
    state_file = folder / "state.pt"
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        first = int(state["step"])
        log(f"resumed at step {first}")
    shares = np.array([weight for _, weight in sources]) / sum(weight for _, weight in sources)
    started = time.monotonic()
    sums: dict[str, float] = {}
    for step in range(first, config.steps):
        stage = config.stage(step)
        rng = np.random.default_rng((config.seed, step))
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, config)
        losses = _losses(model, _batch(sources, shares, stage, rng, config.band_subsets), legend, stage, rng)
        names = ("text", "bce", "dice", "joint")
        total = torch.stack([w * losses[n] for w, n in zip(config.weights, names, strict=True)]).sum()
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        decay = min(config.ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            for kept, new in zip(average.parameters(), model.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        for name, value in {**losses, "total": total}.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        if (step + 1) % 20 == 0:
            record = {"step": step + 1, "seconds": round(time.monotonic() - started, 1)}
            record |= {name: round(value / 20, 4) for name, value in sums.items()}
            sums = {}
            _record(folder, record)
            log(json.dumps(record))
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
            partial = state_file.with_suffix(".partial")
            torch.save(
                {
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "step": step + 1,
                },
                partial,
            )
            partial.replace(state_file)
            if validation is not None:
                accuracy = pixel_accuracy(average, *validation, legend)
                _record(folder, {"step": step + 1, "validation_accuracy": round(accuracy, 4)})
                log(f"step {step + 1}: validation accuracy {accuracy:.4f}")
    _record(folder, {"step": config.steps, "config": asdict(config)})
    return average


def _schedule(step: int, config: TrainingConfig) -> float:
    warm = min(1.0, (step + 1) / config.warmup_steps)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / config.steps)))


def _batch(
    sources: Sequence[tuple[ChipSource, float]],
    shares: npt.NDArray[np.float64],
    stage: Stage,
    rng: np.random.Generator,
    subsets: float,
) -> list[Chip]:
    chips = []
    for _ in range(stage.batch):
        source = sources[int(rng.choice(len(sources), p=shares))][0]
        chips.append(augment(source.chip(int(rng.integers(len(source)))), stage.crop_px, rng, subsets=subsets))
    return chips


def _losses(
    model: SpexForLandCover,
    chips: list[Chip],
    legend: Legend,
    stage: Stage,
    rng: np.random.Generator,
) -> dict[str, Tensor]:
    processor = model.processor
    assert processor is not None
    reflectance, target, weight, gsd = (
        torch.from_numpy(np.stack([getattr(chip, name) for chip in chips]))
        for name in ("reflectance", "target", "weight", "gsd_m")
    )
    if stage.see_image:
        # Attributes are dropped now and then, so that the masks do not come to depend on them.
        questions = [
            question
            for chip in chips
            for question in processor.questions(
                chip.reflectance, legend, max_records=int(rng.integers(0, processor.attribute_records + 1))
            )
        ]
        answers = [a for chip in chips for a in answers_for(legend, chip.target, chip.weight, rng)]
    else:
        questions = processor.questions(chips[0].reflectance, legend, max_records=0)
        answers = processor.short_answers(legend)
    model.train()
    output = model(reflectance, processor.encode(questions, answers), see_image=stage.see_image, gsd_m=gsd)
    losses = mask_losses(output.mask_logits, target, weight)
    losses["text"] = text_loss(output.text_logits, output.text_targets)
    return losses


def _record(folder: Path, record: Mapping[str, object]) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
