"""``spex adapt --full``: the whole vision side learns labelled pixels, beginning with the head that was fitted before.

Two trainings of the same length: one without a fold of left-out blocks, which says what it is worth beside the head and
a forest there, and one on everything. Both write their state every so many steps and go on from it. Where left-out
blocks do not gain, the head is kept. A GPU is used where there is one.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.adaptation.fitting import FOLDS, Labels, Sources, fit_head, rows, softmax, spatial_folds, splits
from pipeline.adaptation.seen import Chip
from pipeline.adaptation.validation import Figures, forest_on, forest_table
from pipeline.adaptation.whole_figures import Whole
from pipeline.comparison.calibration import fit_temperature
from pipeline.errors import SurveyError
from pipeline.machine.progress import Progress
from spex_core.adapting import adapted_model
from spex_core.encoder import channels_of
from spex_core.legend import Legend
from spex_core.training_state import Progressed, TrainingFolder

STEPS, CHIPS_PER_STEP, SIDE_PX = 400, 4, 128
SAVE_EVERY = 25
RATE, HEAD_RATE = 2e-5, 2e-4
"""Of the network, which knows much, and of the head, which was fitted to few."""
MOST_CHIPS = 400
"""Windows of 256 px that are held in memory, 1 GB of ten bands."""
GAIN, LEVEL = 0.05, 0.005
"""Spread of the gain and the dark level that views of a chip are drawn with."""
LEARNING = ("spectral_input", "encoder", "aggregator", "neck", "mask_decoder", "detail", "legend_head")
STATE_SUFFIX = ".training"


def check_patience(on_cpu: bool) -> None:
    """Refuses to train on a CPU unless that is meant.

    Raises:
        SurveyError: There is no GPU.
    """
    if not torch.cuda.is_available() and not on_cpu:
        raise SurveyError(
            "--full trains the whole model, and this machine has no GPU that torch can use: on two CPU cores it takes "
            "an hour or more. Leave --full out (a head is fitted in minutes, and often as good), or add --on-cpu and "
            "have patience: it can be stopped, and goes on where it was"
        )


@dataclass
class Labelled:
    """Everything that a training of the whole model starts from."""

    model: Any
    """Without a head."""
    legend: Legend
    words: Tensor
    sources: Sources
    pixels: npt.NDArray[np.float32]
    labels: Labels
    blocks: Labels
    xy: npt.NDArray[np.float64]
    gap_m: float
    chips: Sequence[Chip]
    """Their ``samples`` are positions in the tables above; -1: not learnt."""
    bands: Sequence[str]
    identity: Mapping[str, Any] = field(default_factory=dict)


def train_whole(
    given: Labelled, tensors: Callable[[Any], tuple[dict[str, Tensor], Tensor]], state: Path, progress: Progress
) -> tuple[Any | None, Whole | None]:
    """Trains twice, see above.

    Args:
        given: Pixels, chips and the model.
        tensors: Makes a head's weights and bias.
        state: Folder of the states; removed when all is done.
        progress: Where progress is told.

    Returns:
        The adapted model, None where the head is as good; and figures, None where no blocks can be left out.

    Raises:
        CheckpointError: The state is of another training, or damaged.
    """
    classes = len(given.legend)
    folds = splits(spatial_folds(given.blocks, given.labels, FOLDS), given.xy, given.gap_m)
    whole = None
    temperature = 1.0
    if len(folds) > 1:
        train, test = folds[0]
        found = _trained(given, train, tensors, state / "left-out", progress, "training without a fold of blocks")
        logits = _answers(found, given, test)
        temperature = fit_temperature(softmax(logits).T, np.eye(classes, dtype=np.float32)[given.labels[test]].T)
        head, _ = _head(given, train)
        known, forest = given.labels[test], forest_on(given.pixels[train], given.labels[train])
        by_head = head.logits(rows(given.sources, test)).argmax(axis=1)
        figures = (
            Figures.of(logits.argmax(axis=1), known, classes),
            Figures.of(by_head, known, classes),
            Figures.of(np.asarray(forest.predict(forest_table(given.pixels[test]))), known, classes),
        )
        whole = Whole(len(test), STEPS, *figures, kept=figures[0].overall > figures[1].overall)
        if not whole.kept:
            shutil.rmtree(state, ignore_errors=True)
            return None, whole
    every = np.arange(len(given.labels))
    model = _trained(given, every, tensors, state / "all", progress, "training the whole model")
    model.config.temperature = temperature
    shutil.rmtree(state, ignore_errors=True)
    return model.to("cpu"), whole


def _head(given: Labelled, train: Labels) -> Any:
    part = given.labels[train], len(given.legend), given.blocks[train], given.xy[train], given.gap_m
    return fit_head(rows(given.sources, train), *part)


def _trained(given: Labelled, train: Labels, tensors: Any, folder: Path, progress: Progress, told: str) -> Any:
    """A model with a head that has learnt some of the samples."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    head, _ = _head(given, train)
    weights, bias = tensors(head)
    torch.manual_seed(0)
    model: Any = adapted_model(given.model, given.legend, weights, bias, given.words, 1.0)
    model.to(device)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.partition(".")[0] in LEARNING)
    own: list[Tensor] = []
    rest: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (own if name.startswith("legend_head.") else rest).append(parameter)
    optimiser = torch.optim.AdamW([{"params": rest, "lr": RATE}, {"params": own, "lr": HEAD_RATE}], weight_decay=0.01)
    kept = TrainingFolder(folder)
    parts: dict[str, Any] = {"model": model, "optimiser": optimiser}
    identity = _identity(given, train)
    done = kept.restore(parts, identity).step
    chips = _of(given.chips, train)
    weight = _balance(given.labels[train], len(given.legend)).to(device)
    progress.start(told, STEPS, "steps", done)
    for step in range(done, STEPS):
        rate = 0.5 * (1 + math.cos(math.pi * step / STEPS))  # no NumPy scalar: the state is read without code
        for group, start in zip(optimiser.param_groups, (RATE, HEAD_RATE), strict=True):
            group["lr"] = start * rate
        rng = np.random.default_rng([1, step])
        optimiser.zero_grad()
        for number in rng.integers(len(chips), size=CHIPS_PER_STEP):
            view, at, labels = _view(chips[number], given.labels, rng)
            logits = _logits(model, view.to(device), given)[0][:, at[0], at[1]].T
            loss = F.cross_entropy(logits, labels.to(device), weight) / CHIPS_PER_STEP
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([*rest, *own], 1.0)
        optimiser.step()
        progress.advance()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == STEPS:
            kept.save(Progressed(step=step + 1), parts, identity)
    return model.eval()


def _identity(given: Labelled, train: Labels) -> str:
    digest = hashlib.sha256()
    for table in (train, given.labels, given.pixels, given.xy):
        digest.update(np.ascontiguousarray(table).tobytes())
    told = {**given.identity, "codes": list(given.legend.codes), "steps": STEPS, "labelled": digest.hexdigest()[:16]}
    return json.dumps(told, sort_keys=True)


def _of(chips: Sequence[Chip], train: Labels) -> list[Chip]:
    """Chips with those of their pixels that may be learnt; at most :data:`MOST_CHIPS`, evenly spread."""
    wanted, found = set(train.tolist()), []
    for chip in chips:
        own = [i for i, sample in enumerate(chip.samples) if sample in wanted]
        if own:
            listed = ([values[i] for i in own] for values in (chip.rows, chip.columns, chip.samples))
            found.append(Chip(chip.tile, *listed))
    chosen = np.unique(np.linspace(0, len(found) - 1, min(MOST_CHIPS, len(found))).round().astype(int))
    return [found[i] for i in chosen]


def _balance(labels: Labels, classes: int) -> Tensor:
    """Weight of each class in the loss: rare ones count more, by the root."""
    counts = np.maximum(np.bincount(labels, minlength=classes), 1)
    weights = np.sqrt(counts.mean() / counts)
    return torch.from_numpy((weights / weights.mean()).astype(np.float32))


def _view(
    chip: Chip, labels: Labels, rng: np.random.Generator
) -> tuple[Tensor, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]], Tensor]:
    """A square around one of a chip's pixels, perhaps flipped, in another light; where its pixels are, and what."""
    at = np.array([chip.rows, chip.columns], np.int64)
    side = min(SIDE_PX, chip.tile.shape[-1])
    row, col = at[:, int(rng.integers(at.shape[1]))]
    largest = chip.tile.shape[-1] - side
    top, left = (int(np.clip(v - rng.integers(side), 0, largest)) for v in (row, col))
    tile = chip.tile[:, top : top + side, left : left + side] * np.float32(rng.normal(1, GAIN))
    tile = tile + np.float32(rng.normal(0, LEVEL))
    at = at - np.array([[top], [left]])
    inside = ((at >= 0) & (at < side)).all(axis=0)
    at, own = at[:, inside], labels[np.array(chip.samples)[inside]]
    for axis in (0, 1):
        if rng.random() < 0.5:
            tile, at[axis] = np.flip(tile, axis + 1), side - 1 - at[axis]
    return torch.from_numpy(np.ascontiguousarray(tile[None])), (at[0], at[1]), torch.from_numpy(own)


def _logits(model: Any, pixel_values: Tensor, given: Labelled) -> Tensor:
    """``[B, K, H, W]``, by the passes of a map."""
    wavelengths = samplings = None
    if tuple(given.bands) != tuple(model.config.bands):
        pixel_values, described = channels_of(pixel_values, given.bands)
        wavelengths, samplings = described.to(pixel_values).unbind()
    vision = model.encode_image(pixel_values, wavelengths, samplings)
    logits: Tensor = model.mask_logits(vision, given.words[None].to(pixel_values), pixel_values.shape[-2:])
    return logits


def _answers(model: Any, given: Labelled, test: Labels) -> npt.NDArray[np.float64]:
    """Logits ``[N, K]`` of some samples; those of chips that were not kept do not occur."""
    place = {int(sample): i for i, sample in enumerate(test)}
    found = np.zeros((len(test), len(given.legend)))
    device = next(model.parameters()).device
    with torch.inference_mode():
        for chip in given.chips:
            own = [i for i, sample in enumerate(chip.samples) if sample in place]
            if own:
                logits = _logits(model, torch.from_numpy(chip.tile[None]).to(device), given)[0]
                for i in own:
                    found[place[chip.samples[i]]] = logits[:, chip.rows[i], chip.columns[i]].float().cpu().numpy()
    return found
