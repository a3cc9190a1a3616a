"""The classifier and the Ray actor that holds one: a block's tiles in, weighted score pieces out.

Micro-batches are fixed by the configuration, tiles keep their order and the number of threads is set here: the same
block gives the same bytes whichever actor computes it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.config import ModelConfig, TilingConfig
from pipeline.errors import ConfigError
from pipeline.memory import ProcessMemory, process_memory
from pipeline.plan import Block, Tile, Window, ZonePlan
from pipeline.stitch import TileAccumulator
from spex_core.checkpoints import checkpoint_fingerprint
from spex_core.errors import CheckpointError
from spex_core.legend import Legend

logger = logging.getLogger(__name__)

INDEX_RULES = "index-rules"
"""Checkpoint name of the built-in baseline: the legend's index rules, no network, no weights."""

FloatArray = npt.NDArray[np.float32]


class Classifier(Protocol):
    """Whatever turns reflectance into class scores."""

    def fingerprint(self) -> str:
        """Changes whenever the scores can change."""

    def scores(self, pixels: FloatArray) -> FloatArray:
        """Class scores of a batch.

        Args:
            pixels: Surface reflectance, float32 ``[B, 10, H, W]``, finite.

        Returns:
            float32 ``[B, K, H, W]``; sums to 1 over K.
        """


class IndexRules:
    """The baseline every evaluation reports: :func:`spex_core.priors.index_scores`, pixel by pixel."""

    VERSION = 1

    def __init__(self, legend: Legend) -> None:
        self._legend = legend

    def fingerprint(self) -> str:
        return f"{INDEX_RULES}:{self.VERSION}:{self._legend.fingerprint()}"

    def scores(self, pixels: FloatArray) -> FloatArray:
        from spex_core.priors import index_scores

        return np.stack([index_scores(image, self._legend) for image in pixels])


class SpexModel:
    """A SPEX checkpoint on one device."""

    def __init__(self, config: ModelConfig, legend: Legend, device: str) -> None:
        import torch

        from spex_core import SpexForLandCover

        self._torch = torch
        self._legend = legend
        self._explain = config.explain
        self._device = torch.device(device)
        self._fingerprint = classifier_fingerprint(config, legend)
        model: Any = SpexForLandCover.from_pretrained(_checkpoint_folder(config.checkpoint))
        self._model = model.to(self._device).eval()

    def fingerprint(self) -> str:
        return self._fingerprint

    def scores(self, pixels: FloatArray) -> FloatArray:
        torch = self._torch
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device)
            prediction = self._model.predict(batch, self._legend, explain=self._explain)
            return np.asarray(prediction.scores.float().cpu().numpy(), np.float32)


def _checkpoint_folder(checkpoint: str) -> Path:
    from spex_core import resolve_checkpoint

    return Path(resolve_checkpoint(checkpoint))


def classifier_fingerprint(config: ModelConfig, legend: Legend) -> str:
    """Identity of the classifier that ``config`` names, without loading it.

    Raises:
        CheckpointError: No such checkpoint, or it has no weights.
    """
    if config.checkpoint == INDEX_RULES:
        return IndexRules(legend).fingerprint()
    return checkpoint_fingerprint(_checkpoint_folder(config.checkpoint))


def device_for(config: ModelConfig, gpus_per_actor: float) -> str:
    """Device of one actor: ``auto`` is the GPU that Ray lends, else the CPU.

    Raises:
        ConfigError: A CUDA device is asked for, but no GPU is reserved for the actors.
    """
    if config.device == "auto":
        return "cuda" if gpus_per_actor > 0 else "cpu"
    if config.device.startswith("cuda") and gpus_per_actor <= 0:
        raise ConfigError(f"model.device is {config.device!r}: set compute.gpus_per_actor to 1 as well")
    return config.device


def load_classifier(config: ModelConfig, legend: Legend, device: str = "cpu") -> Classifier:
    """The classifier that ``config.checkpoint`` names.

    Raises:
        CheckpointError: No such checkpoint, or it cannot be loaded.
    """
    return IndexRules(legend) if config.checkpoint == INDEX_RULES else SpexModel(config, legend, device)


def cut_tile(reflectance: FloatArray, read_window: Window, tile: Tile) -> FloatArray:
    """The pixels of one tile: a view, float32 ``[10, tile, tile]``, of ``reflectance`` ``[10, h, w]``."""
    row, col = tile.window.row - read_window.row, tile.window.col - read_window.col
    return reflectance[:, row : row + tile.window.height, col : col + tile.window.width]


def fill_invalid(tile: FloatArray) -> FloatArray | None:
    """Replaces missing pixels, because a network cannot take NaN and a zero would look like deep water.

    Args:
        tile: float32 ``[10, H, W]``; NaN where there is no measurement.

    Returns:
        A copy with each NaN replaced by the mean of its band over the tile's valid pixels; None if some band has no
        valid pixel at all (there is nothing to classify).
    """
    valid = np.isfinite(tile)
    counts = valid.sum(axis=(1, 2))
    if not counts.all():
        return None
    if valid.all():
        return tile.copy()
    sums = np.where(valid, tile, 0).sum(axis=(1, 2), dtype=np.float64)
    means = (sums / counts).astype(np.float32)
    return np.where(valid, tile, means[:, None, None])


def scored_tiles(
    classifier: Classifier,
    tiles: Iterable[FloatArray],
    *,
    classes: int,
    tiles_per_forward: int,
    note: Callable[[str], None] = logger.warning,
) -> Iterator[FloatArray]:
    """Scores of tiles, one by one and in order, computed in micro-batches of a fixed size.

    Tiles without any measurement get zeros, cost nothing and take no place in a micro-batch.

    Args:
        classifier: The model.
        tiles: Arrays float32 ``[10, t, t]``, NaN where there is no measurement.
        classes: K.
        tiles_per_forward: Size of a micro-batch (halved only when the GPU runs out of memory).
        note: Is told when that happens.

    Yields:
        float32 ``[K, t, t]`` per tile.
    """
    waiting: list[FloatArray | None] = []
    nothing: FloatArray | None = None
    step = tiles_per_forward

    def flush() -> Iterator[FloatArray]:
        nonlocal step
        batch = [tile for tile in waiting if tile is not None]
        answers: list[FloatArray] = []
        while len(answers) < len(batch):
            part = batch[len(answers) : len(answers) + step]
            try:
                answers.extend(classifier.scores(np.stack(part)))
            except Exception as error:
                # Only the GPU's own complaint: any other error is a real one and must not be papered over.
                if type(error).__name__ != "OutOfMemoryError" or step == 1:
                    raise
                step = max(1, step // 2)
                note(f"the GPU is out of memory; going on with {step} tiles per forward pass (model.tiles_per_forward)")
                _release_gpu_memory()
        found = iter(answers)
        for tile in waiting:
            yield nothing if tile is None and nothing is not None else next(found)
        waiting.clear()

    for raw in tiles:
        if nothing is None:
            nothing = np.zeros((classes, *raw.shape[1:]), np.float32)
        waiting.append(fill_invalid(raw))
        if sum(tile is not None for tile in waiting) == tiles_per_forward:
            yield from flush()
    yield from flush()


def _release_gpu_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class ClassifierSettings:
    """What every actor of a run is given once."""

    model: ModelConfig
    legend: Legend
    tiling: TilingConfig
    zones: tuple[ZonePlan, ...]
    threads: int
    gpus: float
    """GPUs reserved for this actor."""


@dataclass(frozen=True)
class ClassifyReport:
    """The small part of a classified block, for the driver."""

    notes: tuple[str, ...]
    """What people should know, e.g. that the GPU ran out of memory."""
    memory: ProcessMemory


class BlockClassifier:
    """The actor: one loaded classifier that answers blocks. Plain Python; the engine wraps it with ``ray.remote``."""

    def __init__(self, settings: ClassifierSettings) -> None:
        self._settings = settings
        self._classifier: Classifier | None = None

    def load(self) -> int:
        """Loads the model (not in the constructor, so that its errors arrive as what they are).

        Returns:
            The process id.
        """
        settings = self._settings
        if settings.model.checkpoint != INDEX_RULES:
            import torch

            torch.set_num_threads(settings.threads)
            torch.use_deterministic_algorithms(True, warn_only=True)
        self._classifier = load_classifier(settings.model, settings.legend, device_for(settings.model, settings.gpus))
        return os.getpid()

    def classify(self, zone: int, block: Block, targets: tuple[int, ...], reflectance: FloatArray) -> Any:
        """Classifies one block.

        Args:
            zone: Position of the zone in the plan.
            block: The block.
            targets: Blocks of the zone that its tiles touch, in the order of the answer.
            reflectance: float32 ``[10, h, w]`` over ``block.read_window``; NaN where there is no measurement.

        Returns:
            One :class:`~pipeline.stitch.Piece` per target (None where no tile of the block reaches it), then a
            :class:`ClassifyReport`.
        """
        if self._classifier is None:
            self.load()
        settings = self._settings
        if self._classifier is None:
            raise CheckpointError("the model is not loaded")
        accumulator = TileAccumulator(block, settings.zones[zone], settings.tiling)
        tiles = (cut_tile(reflectance, block.read_window, tile) for tile in block.tiles)
        notes: list[str] = []
        scored = scored_tiles(
            self._classifier,
            tiles,
            classes=len(settings.legend),
            tiles_per_forward=settings.model.tiles_per_forward,
            note=notes.append,
        )
        for tile, scores in zip(block.tiles, scored, strict=True):
            accumulator.add(tile, scores)
        pieces = accumulator.finish()
        return (*(pieces.get(target) for target in targets), ClassifyReport(tuple(notes), process_memory()))
