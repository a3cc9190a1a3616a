"""Training of a SPEX model on labelled chips: pre-training, instruction tuning and descriptions in one resumable loop.

The same loop runs in one process or in several that share every step's batch (data-parallel over torch.distributed).
The loss of a step is a mean over the whole batch, so it does not depend on how many workers share it, up to the order
of float sums. The prompts are computed from each chip's imagery by the legend's index rules, exactly as at run time;
labels appear only in targets and answers.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from spex_core.batches import ChipSource, Kind, Recipe, Stage, StepBatch, step_batches
from spex_core.describing import LEARNING, Description, PromptAnchor, anchor_loss_sum
from spex_core.errors import CheckpointError, TrainingError
from spex_core.legend import Legend
from spex_core.losses import LossSum, class_weights, mask_loss_sums, text_loss_sum
from spex_core.map_samples import meanings, vocabulary
from spex_core.modeling import SpexForLandCover
from spex_core.pretraining import MaskedReconstruction, ReconstructionHead, reconstruction_loss_sum
from spex_core.processing import TextBatch
from spex_core.training_state import Progressed, TrainingFolder
from spex_core.validation import pixel_hits

__all__ = ["ChipSource", "Span", "Stage", "TrainingConfig", "Worker", "pixel_hits", "spans", "train"]

Record = Mapping[str, object]
"""One line of metrics: ``step`` and numbers."""


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides the result, beside data and software."""

    stages: tuple[Stage, ...] = (
        Stage(600, 8, 128, "words"),
        Stage(1700, 8, 128, "prompt"),
        Stage(300, 2, 256, "prompt"),
    )
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    warmup_steps: int = 100
    """Of the training, and again of each stage that restarts."""
    clip_norm: float = 1.0
    """Gradients are scaled to at most this norm."""
    ema_decay: float = 0.995
    seed: int = 0
    weights: tuple[float, float, float, float] = (1.0, 2.0, 1.0, 2.0)
    """Of text cross-entropy, BCE, Dice (the paper's 1, 2, 1) and the joint cross-entropy over the legend."""
    band_subsets: float = 0.3
    """Share of training views that lose bands; only for models with ``band_encoding``."""
    colours: tuple[float, ...] | None = None
    """Share of each source's views in other light, air and vigour; default: all. Simulated chips vary by themselves."""
    coarse_views: float = 0.2
    """Share of training views whose pixels are averaged to 20 or 30 m."""
    class_balance: float = 0.0
    """A pixel weighs as the share of its class in the batch to the power of minus this: 0 as it comes, 1 all classes
    alike. Real scenes are mostly one class."""
    language_model_rate: float = 0.3
    """Learning rate of the language model, times the training's. In stages of class words it rests: nine sentences
    would bend it out of shape."""
    checkpoint_every: int = 200
    """Steps between checkpoints, each with a validation."""
    record_every: int = 20
    """Steps between lines of metrics."""

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages)


@dataclass(frozen=True)
class Worker:
    """One of the processes that share a training. Changes nothing in the result but the order of float sums."""

    rank: int = 0
    count: int = 1
    """With more than one, torch.distributed must be initialised."""
    device: str = "cpu"
    loaders: int = 0
    """Processes that make batches ahead; 0: the worker makes them itself."""
    bf16: bool = False
    """Whether the forward pass computes in bfloat16 (autocast); weights, losses and optimiser stay in float32."""


@dataclass(frozen=True)
class Span:
    """Where a stage lies in the training."""

    stage: Stage
    steps: range
    origin: int
    """Step where its learning-rate schedule began: that of the last restart."""
    length: int
    """Steps from there to the next restart, or to the end."""

    def learning_rate(self, step: int, config: TrainingConfig) -> float:
        """Linear warm-up, then a cosine down to 2 percent."""
        done = step - self.origin
        warm = min(1.0, (done + 1) / max(config.warmup_steps, 1))
        cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done / self.length))
        return config.learning_rate * self.stage.learning_rate_factor * warm * cosine


def spans(stages: Sequence[Stage]) -> list[Span]:
    """Lays stages end to end, and finds which of them share a schedule."""
    firsts = np.cumsum([0, *(stage.steps for stage in stages)]).tolist()
    origins = [first for first, stage in zip(firsts, stages, strict=False) if stage.restart or first == 0]
    ends = [*origins[1:], firsts[-1]]
    laid = []
    for stage, first in zip(stages, firsts, strict=False):
        run = max(i for i, origin in enumerate(origins) if origin <= first)
        laid.append(Span(stage, range(first, first + stage.steps), origins[run], ends[run] - origins[run]))
    return laid


def train(
    model: SpexForLandCover,
    sources: Sequence[tuple[ChipSource, float]],
    legend: Legend,
    config: TrainingConfig,
    folder: Path,
    validation: tuple[ChipSource, Sequence[int]] | None = None,
    *,
    worker: Worker | None = None,
    on_record: Callable[[Record], None] | None = None,
) -> SpexForLandCover:
    """Trains, or goes on where a training in the same folder stopped.

    Args:
        model: With its processor set; moved to the worker's device and trained in place.
        sources: Chips and their sampling weight.
        legend: The classes that are asked.
        config: Stages, optimiser and seed.
        folder: Receives ``training/state.pt`` and ``training/metrics.jsonl``, and the checkpoint folders ``last`` (the
            average at the last step) and ``best`` (by validation). Written by rank 0 alone.
        validation: Chips that are never trained on, and which of them to score.
        worker: Which process of how many, and its device; default: the only one, on the CPU.
        on_record: Receives every line of metrics, on rank 0.

    Returns:
        The exponential moving average of the weights.

    Raises:
        CheckpointError: The model has no processor, or the state in ``folder`` is not readable or of another training.
        TrainingError: A loss is not finite, or a batch is smaller than the number of workers.
    """
    loop = _Loop(model, sources, legend, config, folder, validation, worker or Worker(), on_record)
    return loop.run()


class _Loop:
    def __init__(
        self,
        model: SpexForLandCover,
        sources: Sequence[tuple[ChipSource, float]],
        legend: Legend,
        config: TrainingConfig,
        folder: Path,
        validation: tuple[ChipSource, Sequence[int]] | None,
        worker: Worker,
        on_record: Callable[[Record], None] | None,
    ) -> None:
        if model.processor is None:
            raise CheckpointError("train() needs a model with its processor set")
        if small := [stage.batch for stage in config.stages if stage.batch < worker.count]:
            raise TrainingError(f"{worker.count} workers cannot share a batch of {min(small)}: at least a chip each")
        self._device = torch.device(worker.device)
        nn.Module.to(model, self._device)
        self._model, self._config, self._worker, self._legend = model, config, worker, legend
        self._recipe = Recipe(
            tuple(source for source, _ in sources),
            tuple(weight for _, weight in sources),
            legend,
            model.processor,
            config.seed,
            config.band_subsets,
            needs_all_bands=not model.config.band_encoding,
            colours=config.colours,
            coarse_views=config.coarse_views,
        )
        self._validation, self._on_record = validation, on_record
        torch.manual_seed(config.seed)
        self._average: SpexForLandCover = copy.deepcopy(model).eval()
        self._head = ReconstructionHead(model.config).to(self._device)
        nouns = [entry.noun for entry in legend]
        self._by_map = any(stage.attributes == "map" for stage in config.stages)
        words = (vocabulary(legend), len(nouns), meanings(legend)) if self._by_map else (nouns, len(nouns))
        self._anchor = PromptAnchor(model, *words).to(self._device)
        language = set(model.language_model.parameters())
        groups = [
            {"params": [weight for weight in self._weights() if weight not in language]},
            {"params": [weight for weight in self._weights() if weight in language]},
        ]
        self._optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
        self._folder = TrainingFolder(folder)
        self._parts: dict[str, Any] = {
            "model": model,
            "average": self._average,
            "head": self._head,
            "anchor": self._anchor,
            "optimiser": self._optimiser,
        }
        self._progress = Progressed()
        self._started = time.monotonic()

    def run(self) -> SpexForLandCover:
        self._progress = self._folder.restore(self._parts, self._identity())
        first = self._progress.step
        if self._worker.rank == 0:
            self._folder.keep_metrics_until(first)
        for span in spans(self._config.stages):
            if first >= span.steps.stop:
                continue
            if span.stage.restart and first <= span.steps.start and span.steps.start:
                self._model.load_state_dict(self._average.state_dict())
                self._optimiser.state.clear()
            self._run_stage(span, range(max(first, span.steps.start), span.steps.stop))
        return self._average

    def _run_stage(self, span: Span, steps: range) -> None:
        stage, worker = span.stage, self._worker
        for name, part in self._model.named_children():
            part.requires_grad_(_learns(name, stage.kind))
        module: nn.Module = self._model
        if stage.kind == "pretrain":
            module = MaskedReconstruction(self._model, self._head)
        if stage.kind == "describe":
            module = Description(self._model, self._bare_words() if stage.attributes == "map" else None)
            self._average.config.map_questions = self._by_map
            if steps.start == span.steps.start and not self._follows_descriptions(span):
                self._anchor.set(self._model)
        if worker.count > 1:  # some weights rest in each kind of stage
            module = DistributedDataParallel(module, find_unused_parameters=True)
        pinned = self._device.type == "cuda"
        batches = step_batches(self._recipe, stage, steps, worker.rank, worker.count, worker.loaders, pinned)
        for step, batch in zip(steps, batches, strict=True):
            rate = span.learning_rate(step, self._config)
            language = self._config.language_model_rate if _learns("language_model", stage.kind) else 0.0
            for group, factor in zip(self._optimiser.param_groups, (1.0, language), strict=True):
                group["lr"] = factor * rate
            # The only random numbers of a step that are not the batch's own (stochastic depth, dropout).
            torch.manual_seed(int(np.random.SeedSequence((self._config.seed, step, worker.rank)).generate_state(1)[0]))
            values = self._update(module, stage, batch.to(self._device), step)
            self._average_weights(step - span.origin)
            self._count(values, stage, step)
            if (step + 1) % self._config.checkpoint_every == 0 or step + 1 == self._config.steps:
                self._checkpoint(stage)

    def _update(self, module: nn.Module, stage: Stage, batch: StepBatch, step: int) -> dict[str, float]:
        """One optimiser step; returns the losses of the whole batch."""
        self._model.train()
        if self._config.class_balance and stage.kind in ("words", "prompt"):
            batch = self._balanced(batch)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._worker.bf16):
            sums = self._loss_sums(module, stage, batch)
        names = sorted(sums)
        totals = torch.stack([part.detach().float() for name in names for part in sums[name]])
        if self._worker.count > 1:
            distributed.all_reduce(totals)
        totals = totals.view(-1, 2)
        counts = totals[:, 1].clamp_min(1)
        weights = dict(zip(("text", "bce", "dice", "joint"), self._config.weights, strict=True))
        # DistributedDataParallel averages gradients over workers: times their number, the average is the sum.
        loss = torch.stack(
            [weights.get(name, 1.0) * sums[name][0] / count for name, count in zip(names, counts, strict=True)]
        ).sum()
        self._optimiser.zero_grad(set_to_none=True)
        (loss * self._worker.count).backward()
        norm = torch.nn.utils.clip_grad_norm_(self._weights(), self._config.clip_norm)
        values = dict(zip(names, (totals[:, 0] / counts).tolist(), strict=True))
        values["total"] = sum(weights.get(name, 1.0) * value for name, value in values.items())
        values["gradient_norm"] = float(norm)
        if not all(math.isfinite(value) for value in values.values()):
            raise TrainingError(
                f"the loss is not finite at step {step + 1}: {values}; lower the learning rate, or look for chips with "
                "infinite reflectance"
            )
        self._optimiser.step()
        return values

    def _follows_descriptions(self, span: Span) -> bool:
        laid = spans(self._config.stages)
        return any(one.steps.stop == span.steps.start and one.stage.kind == "describe" for one in laid)

    def _bare_words(self) -> TextBatch:
        assert self._model.processor is not None
        return self._model.processor.bare_words(self._anchor.nouns).to(self._device)

    def _balanced(self, batch: StepBatch) -> StepBatch:
        """Weighs pixels by the rarity of their class in the whole batch; the sum of weights stays."""
        best = batch.target.argmax(1)
        counts = torch.bincount(best.flatten(), batch.weight.flatten().double(), minlength=len(self._legend))
        if self._worker.count > 1:
            distributed.all_reduce(counts)
        rarity = class_weights(counts, self._config.class_balance)
        return replace(batch, weight=batch.weight * rarity.float()[best])

    def _loss_sums(self, module: nn.Module, stage: Stage, batch: StepBatch) -> dict[str, LossSum]:
        if batch.hidden is not None:
            predicted = module(batch.reflectance, batch.hidden, batch.gsd_m)
            config = self._model.config
            return {"reconstruction": reconstruction_loss_sum(predicted, batch.reflectance, batch.hidden, config)}
        if stage.kind == "describe":
            logits, targets, prompts, bare = module(batch.reflectance, batch.text, batch.gsd_m)
            anchor = self._anchor
            sums = {"text": text_loss_sum(logits.float(), targets)}
            sums["anchor"] = anchor_loss_sum(prompts, anchor, anchor.of(batch.words))
            return sums if bare is None else sums | {"words": anchor_loss_sum(bare, anchor, anchor.prompts)}
        output = module(batch.reflectance, batch.text, see_image=stage.kind == "prompt", gsd_m=batch.gsd_m)
        sums = mask_loss_sums(output.mask_logits.float(), batch.target, batch.weight)
        if stage.kind == "words":  # the language model rests: what it would have said teaches nobody
            return sums
        return {**sums, "text": text_loss_sum(output.text_logits.float(), output.text_targets)}

    def _average_weights(self, step: int) -> None:
        decay = min(self._config.ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self._average.parameters()), list(self._model.parameters()), 1 - decay)

    def _count(self, values: Mapping[str, float], stage: Stage, step: int) -> None:
        """Adds up losses, and records their mean now and then and at the end of a stage."""
        progress, every = self._progress, self._config.record_every
        progress.step = step + 1
        for name, value in {**values, "steps": 1.0}.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + value
        ends = step + 1 in {span.steps.stop for span in spans(self._config.stages)}
        if progress.step % every and not ends:
            return
        count = progress.sums.pop("steps")
        means = {name: round(value / count, 5) for name, value in progress.sums.items()}
        rate = float(self._optimiser.param_groups[0]["lr"])
        self._record({"stage": stage.kind, **means, "learning_rate": round(rate, 8)})
        progress.sums = {}

    def _checkpoint(self, stage: Stage) -> None:
        """Validates, exports and saves, in this order: what is resumed from has been judged."""
        best = False
        if self._validation is not None and stage.kind != "pretrain":
            accuracy = self._accuracy(*self._validation, words=stage.kind == "words")
            best = accuracy > self._progress.best
            self._progress.best = max(accuracy, self._progress.best)
            self._record({"validation_accuracy": round(accuracy, 5)})
        if self._worker.rank == 0:
            for name in ("last", *(("best",) if best else ())):
                self._folder.export(self._average, name)
            self._folder.save(self._progress, self._parts, self._identity())

    def _accuracy(self, source: ChipSource, indices: Sequence[int], words: bool) -> float:
        """Over all workers, each of which scores its share of the chips."""
        own = list(indices)[self._worker.rank :: self._worker.count]
        hits = pixel_hits(self._average, source, own, self._legend, words=words)
        found = torch.tensor(hits, device=self._device, dtype=torch.float64)
        if self._worker.count > 1:
            distributed.all_reduce(found)
        agreeing, count = found.tolist()
        return float(agreeing / max(count, 1.0))

    def _record(self, values: Record) -> None:
        if self._worker.rank:
            return
        record = {"step": self._progress.step, "seconds": round(time.monotonic() - self._started, 1), **values}
        self._folder.record(record)
        if self._on_record is not None:
            self._on_record(record)

    def _weights(self) -> Iterator[nn.Parameter]:
        yield from self._model.parameters()
        yield from self._head.parameters()

    def _identity(self) -> str:
        """What must be the same for a training to be resumed."""
        decides = asdict(self._config)
        del decides["checkpoint_every"], decides["record_every"]
        decides["chips"] = [len(source) for source in self._recipe.sources]
        decides["sampling shares"] = self._recipe.shares
        decides["legend"] = self._legend.codes
        decides["parameters"] = sum(weight.numel() for weight in self._model.parameters())
        return json.dumps(decides)


def _learns(part: str, kind: Kind) -> bool:
    """Whether a stage changes a part of the model."""
    if kind == "describe":
        return part in LEARNING
    return part != "language_model" or kind != "words"
