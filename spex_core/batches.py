"""Batches of training: which chips a step sees, and how they are asked. A pure function of (data, seed, step).

Every sample of a step has its own random generator, seeded with (seed, step, place in the batch). So a step's batch is
the same for any number of workers, which take turns at its samples, and a resumed training needs no generator's state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spex_core.answers import Form, describe
from spex_core.augmentation import Chip, augment
from spex_core.errors import ModelInputError
from spex_core.legend import Legend
from spex_core.map_samples import map_sample
from spex_core.pretraining import hidden_parts
from spex_core.processing import SpexProcessor, TextBatch
from spex_core.prompts import short_answer

FloatArray = npt.NDArray[np.float32]
Kind = Literal["pretrain", "words", "prompt", "describe"]
"""``pretrain``: masked reconstruction, no text; ``words``: class words alone prompt the masks, without image tokens,
and the language model rests; ``prompt``: the full prompt with image and attributes; ``describe``: the language model
learns to answer full prompts while masks stay as ``words`` left them (:mod:`spex_core.describing`)."""
Attributes = Literal["imagery", "map"]
"""Where the attributes of a stage of descriptions come from: the legend's index rules, or a map with errors
(:mod:`spex_core.map_samples`)."""


class ChipSource(Protocol):
    """Labelled chips."""

    def __len__(self) -> int: ...

    def chip(self, index: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Reflectance ``[10, H, W]`` (NaN: missing band), class probabilities ``[K, H, W]``, weight ``[H, W]``."""
        ...


@dataclass(frozen=True)
class Stage:
    """A stretch of training with fixed shapes."""

    steps: int
    batch: int
    """Chips of one step, over all workers."""
    crop_px: int
    kind: Kind = "prompt"
    learning_rate_factor: float = 1.0
    """Times the training's learning rate."""
    shares: tuple[float, ...] | None = None
    """Sampling weight of each source in this stage; default: the training's."""
    restart: bool = False
    """Begins like a training of its own from the average so far: new optimiser, warm-up and cosine."""
    attributes: Attributes = "imagery"


@dataclass(frozen=True)
class StepBatch:
    """One worker's part of a step's batch."""

    reflectance: Tensor
    """float32 ``[B, 10, H, W]``."""
    target: Tensor
    """float32 ``[B, K, H, W]``."""
    weight: Tensor
    """float32 ``[B, H, W]``."""
    gsd_m: Tensor
    """float32 ``[B, 10]``."""
    hidden: Tensor | None
    """bool ``[B, 10, H/16, W/16]`` in pre-training."""
    text: TextBatch | None
    """B*K questions with answers (K in stages of class words); None in pre-training."""
    words: Tensor | None = None
    """int64 ``[B, Q]``, which word of :func:`spex_core.map_samples.vocabulary` each question asks about; None: the
    legend's classes in order."""

    def to(self, device: torch.device) -> StepBatch:
        """The same on another device."""
        return self._each(lambda part: part.to(device, non_blocking=True))

    def pin_memory(self) -> StepBatch:
        """The same in page-locked memory, from which a GPU copies while it computes."""
        return self._each(lambda part: part.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> StepBatch:
        return StepBatch(
            reflectance=change(self.reflectance),
            target=change(self.target),
            weight=change(self.weight),
            gsd_m=change(self.gsd_m),
            hidden=None if self.hidden is None else change(self.hidden),
            text=None if self.text is None else TextBatch(*map(change, self.text.tensors())),
            words=None if self.words is None else change(self.words),
        )


@dataclass(frozen=True)
class Recipe:
    """What a step's batch depends on, beside stage, step and worker."""

    sources: tuple[ChipSource, ...]
    shares: tuple[float, ...]
    """Sampling weight of each source."""
    legend: Legend
    processor: SpexProcessor
    seed: int
    band_subsets: float
    """Share of views that lose bands."""
    needs_all_bands: bool
    """Whether the model takes nothing but all ten bands."""
    colours: tuple[float, ...] | None = None
    """Share of each source's views in other light, air and vigour; default: all."""
    coarse_views: float = 0.2
    """Share of views whose pixels are averaged to 20 or 30 m."""


ANSWER_FORMS: dict[Kind, tuple[float, float]] = {"prompt": (0.6, 0.2), "describe": (0.1, 0.1)}
"""Shares of prompts with the short answer that conditions masks at run time, and with a brief description; the others
have a full one, whose beginning is a brief one."""


def answers_for(legend: Legend, chip: Chip, rng: np.random.Generator, kind: Kind = "prompt") -> list[str]:
    """One answer per class: the short one, or a true description."""
    style, (short, brief) = rng.random(), ANSWER_FORMS[kind]
    if style < short or chip.weight.mean() < 0.9:
        return [short_answer(entry.noun) for entry in legend]
    form: Form = "brief" if style < short + brief else "full"
    best = chip.target.argmax(0)
    masks = {entry.noun: (best == k) & (chip.weight > 0) for k, entry in enumerate(legend)}
    answers = []
    for noun, mask in masks.items():
        others = {other: theirs for other, theirs in masks.items() if other != noun}
        answers.append(describe(noun, mask, rng, form=form, reflectance=chip.reflectance, others=others))
    return answers


def step_batch(recipe: Recipe, stage: Stage, step: int, rank: int = 0, workers: int = 1) -> StepBatch:
    """The samples ``rank``, ``rank + workers``, ... of a step.

    Args:
        recipe: Data and seed.
        stage: Shapes and kind.
        step: Number of the step in the whole training.
        rank: Which worker.
        workers: How many there are; at most ``stage.batch``.

    Raises:
        ModelInputError: A chip misses bands and the model needs all ten.
    """
    generators = [np.random.default_rng((recipe.seed, step, place)) for place in range(rank, stage.batch, workers)]
    chips = [_draw(recipe, stage, rng) for rng in generators]
    reflectance, target, weight, gsd_m = (
        torch.from_numpy(np.stack([getattr(chip, name) for chip in chips]))
        for name in ("reflectance", "target", "weight", "gsd_m")
    )
    hidden, text, words = None, None, None
    processor, legend = recipe.processor, recipe.legend
    if stage.kind == "pretrain":
        hidden = torch.from_numpy(
            np.stack([hidden_parts(chip.reflectance, rng) for chip, rng in zip(chips, generators, strict=True)])
        )
    elif stage.kind == "words":
        text = processor.class_words(legend)
    elif stage.kind == "describe" and stage.attributes == "map":
        samples = [map_sample(legend, chip, rng) for chip, rng in zip(chips, generators, strict=True)]
        text = processor.encode([q for s in samples for q in s.questions], [a for s in samples for a in s.answers])
        words = torch.tensor([sample.words for sample in samples])
    else:
        questions, answers = [], []
        for chip, rng in zip(chips, generators, strict=True):
            # Attributes are dropped now and then, so that the masks do not come to depend on them.
            records = int(rng.integers(0, processor.attribute_records + 1))
            questions += processor.questions(chip.reflectance, legend, max_records=records)
            answers += answers_for(legend, chip, rng, stage.kind)
        text = processor.encode(questions, answers)
        # The short answer is given at run time, never to be written: learnt as text, being the commonest of all, it is
        # what greedy decoding writes whenever it is asked to explain.
        given = set(processor.short_answers(legend))
        text.labels[torch.tensor([answer in given for answer in answers])] = -100
    return StepBatch(reflectance, target, weight, gsd_m, hidden, text, words)


def step_batches(
    recipe: Recipe, stage: Stage, steps: range, rank: int = 0, workers: int = 1, loaders: int = 0, pinned: bool = False
) -> Iterator[StepBatch]:
    """:func:`step_batch` of each step in order; with ``loaders`` > 0 made ahead by so many processes.

    ``pinned`` batches lie in page-locked memory (for CUDA).
    """
    batches = _StepBatches(recipe, stage, steps, rank, workers)
    context = "fork" if loaders else None  # memory-mapped chips are shared, not copied
    return iter(
        DataLoader(batches, batch_size=None, num_workers=loaders, multiprocessing_context=context, pin_memory=pinned)
    )


class _StepBatches(Dataset[StepBatch]):
    def __init__(self, recipe: Recipe, stage: Stage, steps: range, rank: int, workers: int) -> None:
        self._arguments = recipe, stage
        self._steps, self._rank, self._workers = steps, rank, workers

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: int) -> StepBatch:
        return step_batch(*self._arguments, self._steps[index], self._rank, self._workers)


def _draw(recipe: Recipe, stage: Stage, rng: np.random.Generator) -> Chip:
    weights = np.array(stage.shares or recipe.shares, np.float64)
    position = int(rng.choice(len(weights), p=weights / weights.sum()))
    source = recipe.sources[position]
    colours = 1.0 if recipe.colours is None else recipe.colours[position]
    index = int(rng.integers(len(source)))
    parts = source.chip(index)
    if min(parts[2].shape) < stage.crop_px:
        raise ModelInputError(f"chip {index} of {source} is smaller than crop_px {stage.crop_px}: {parts[2].shape}")
    if recipe.needs_all_bands and np.isnan(parts[0][:, 0, 0]).any():
        raise ModelInputError(f"chip {index} of {source} misses bands, which a model needs band_encoding for")
    # What pre-training hides it must be able to judge, so no band is dropped there.
    whole = recipe.needs_all_bands or stage.kind == "pretrain"
    subsets = 0.0 if whole else recipe.band_subsets
    return augment(parts, stage.crop_px, rng, subsets=subsets, colours=colours, coarse=recipe.coarse_views)
