"""The chips of a training file: opened, split from the validation, and weighed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.chips.chip_folder import ChipFolder
from pipeline.errors import ChipError, ConfigError
from pipeline.machine.progress import Progress
from pipeline.spie.shards import ShardedChips
from pipeline.training.config import FolderSource, ShardsSource, SimulatedSource, TrainFile
from pipeline.training.simulated import simulated_folder
from spex_core.batches import ChipSource, Stage
from spex_core.legend import Legend

FloatArray = npt.NDArray[np.float32]

DRAWN = 4000
"""Shortest list that a balanced source draws."""


@dataclass(frozen=True)
class TrainingChips:
    """What a training draws from."""

    sources: tuple[tuple[ChipSource, float], ...]
    """Chips and their sampling weight, without those held out."""
    stages: tuple[Stage, ...]
    """With shares in the order of ``sources``."""
    validation: tuple[ChipSource, range] | None
    colours: tuple[float, ...]
    """Share of each source's views in other colours."""


class ChipRange:
    """Some chips of a source, as a source with a name."""

    def __init__(self, name: str, source: ChipSource, indices: range) -> None:
        self._name, self.source, self.indices = name, source, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __str__(self) -> str:
        return f"source {self._name}"

    def chip(self, index: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """See :meth:`spex_core.batches.ChipSource.chip`."""
        return self.source.chip(self.indices[index])


class BalancedChips:
    """Chips drawn so that those with rare classes come more often: real scenes are mostly one class.

    Args:
        source: Chips with labels; all are read once.
        seed: Decides the draw.
    """

    def __init__(self, source: ChipSource, seed: int) -> None:
        self._source = source
        share = np.stack([_class_shares(source, index) for index in range(len(source))])
        rarity = 1.0 / np.sqrt(share.mean(0) + 1e-3)
        probability = (share * rarity).sum(1) + 1e-9
        count = max(DRAWN, 4 * len(source))
        self._drawn = np.random.default_rng(seed).choice(len(source), size=count, p=probability / probability.sum())

    def __len__(self) -> int:
        return len(self._drawn)

    def __str__(self) -> str:
        return str(self._source)

    def chip(self, index: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """See :meth:`spex_core.batches.ChipSource.chip`."""
        return self._source.chip(int(self._drawn[index]))


def _class_shares(source: ChipSource, index: int) -> FloatArray:
    """Share of each class ``[K]`` among a chip's labelled pixels."""
    if isinstance(source, ChipRange):
        return _class_shares(source.source, source.indices[index])
    if isinstance(source, ChipFolder):
        return source.class_shares(index)
    _, target, weight = source.chip(index)
    shares: FloatArray = (target * weight).sum((1, 2)) / max(float(weight.sum()), 1.0)
    return shares


def with_chips_made(file: TrainFile, progress: Progress) -> TrainFile:
    """The same training with simulated chips as chip folders, which are made where they are missing.

    Raises:
        OutputError: The cache cannot be written.
    """
    processes = max(file.compute.loaders, 1)
    sources = [
        FolderSource(
            kind="chips",
            folder=simulated_folder(file.cache_folder, section.count, section.first_seed, progress, processes),
            **section.model_dump(exclude={"kind", "count", "first_seed"}),
        )
        if isinstance(section, SimulatedSource)
        else section
        for section in file.sources
    ]
    return file.model_copy(update={"sources": tuple(sources)})


def open_sources(file: TrainFile, legend: Legend, progress: Progress | None = None) -> TrainingChips:
    """Opens the sources of a training file.

    Args:
        file: Sources (of which none is simulated any more), stages and validation.
        legend: Classes of the labels.
        progress: Told of optional sources that are missing; None: nobody is.

    Raises:
        ChipError: A source that is not optional cannot be read.
        ConfigError: What is left without missing and held-out chips is nothing for some stage, or too small for it.
    """
    opened: dict[str, ChipSource] = {}
    for section in file.sources:
        if isinstance(section, SimulatedSource):
            raise ChipError(f"the chips of source {section.name} have not been made")
        if section.optional and not section.folder.exists():
            _warn(progress, f"source {section.name}: {section.folder} is missing; training goes on without it")
            continue
        opened[section.name] = _open(section, legend)
    validation, kept = _held_out(file, opened, progress)
    shares = {section.name: section.share for section in file.sources}
    balanced = {section.name for section in file.sources if section.balanced}
    stages = []
    for number, stage in enumerate(file.stages, 1):
        own = stage.shares or shares
        weights = tuple(own.get(name, 0.0) for name in kept)
        if not sum(weights) > 0:
            raise ConfigError(f"stage {number} has no source left to draw from: {', '.join(own)} missing or held out")
        stages.append(
            Stage(
                stage.steps,
                stage.batch,
                stage.crop_px,
                stage.kind,
                stage.learning_rate_factor,
                weights,
                stage.restart,
                stage.attributes,
            )
        )
    drawn = {name for name in kept if any(stage.shares and stage.shares[list(kept).index(name)] for stage in stages)}
    for name, chips in kept.items():
        _check_size(name, chips, stages, list(kept).index(name))
    sources = tuple(
        (BalancedChips(chips, file.seed) if name in balanced & drawn else chips, shares[name])
        for name, chips in kept.items()
    )
    colours = {section.name: section.colours for section in file.sources}
    return TrainingChips(sources, tuple(stages), validation, tuple(colours[name] for name in kept))


def _open(section: FolderSource | ShardsSource, legend: Legend) -> ChipSource:
    chips: ChipSource
    if isinstance(section, ShardsSource):
        chips = ShardedChips(section.folder, split=section.split, legend=legend)
    else:
        chips = ChipFolder(section.folder, legend)
    if len(chips) == 0:
        raise ChipError(f"source {section.name} holds no chip")
    return ChipRange(section.name, chips, range(len(chips)))


def _held_out(
    file: TrainFile, opened: dict[str, ChipSource], progress: Progress | None
) -> tuple[tuple[ChipSource, range] | None, dict[str, ChipSource]]:
    """The validation's chips, and what is left to train on."""
    if file.validation is None:
        return None, opened
    name = file.validation.source
    if name not in opened:
        _warn(progress, f"source {name} is missing, so nothing is validated")
        return None, opened
    chips = opened[name]
    first = 0 if file.validation.chips is None else max(0, len(chips) - file.validation.chips)
    left = {other: theirs for other, theirs in opened.items() if other != name or first}
    if first:
        left[name] = ChipRange(name, chips, range(first))
    return (chips, range(first, len(chips))), left


def _warn(progress: Progress | None, message: str) -> None:
    if progress is not None:
        progress.say(f"warning: {message}")


def _check_size(name: str, chips: ChipSource, stages: Sequence[Stage], position: int) -> None:
    """Chips of a source are of one size; the first tells it."""
    side = min(chips.chip(0)[2].shape)
    for number, stage in enumerate(stages, 1):
        if stage.shares and stage.shares[position] and stage.crop_px > side:
            raise ConfigError(f"stage {number}: crop_px {stage.crop_px} is more than the {side} px of source {name}")
