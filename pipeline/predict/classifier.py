"""The classifier and the Ray actor that holds one: a block's tiles in, weighted score pieces out.

Micro-batches are fixed by the configuration, tiles keep their order and the number of threads is set here: the same
block gives the same bytes whichever actor computes it.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.machine import pixel_loops
from pipeline.machine.memory import ProcessMemory, process_memory
from pipeline.planning.software import check_worker
from pipeline.predict.fusion import fused_tiles
from pipeline.predict.stitch import Arrays, HostArrays, TileAccumulator
from pipeline.records.dated_pixels import DatedPixels
from pipeline.records.plan import Block, Tile, Window, ZonePlan
from pipeline.records.windows import slices
from pipeline.settings.model import (
    INDEX_RULES,
    device_for,
    device_kind,
    index_rules_fingerprint,
    tiles_per_forward,
)
from spex_core.errors import CheckpointError
from spex_core.legend import Legend

if TYPE_CHECKING:
    from pipeline.settings.run_file import ModelConfig, TilingConfig

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]


class Classifier(Protocol):
    """Whatever turns reflectance into class scores."""

    def fingerprint(self) -> str:
        """Changes whenever the scores can change."""

    def scores(self, pixels: FloatArray) -> FloatArray:
        """Class scores of a batch.

        Args:
            pixels: Surface reflectance, float32 ``[B, 10, H, W]``, finite but for bands that the run does not read:
                those are NaN throughout.

        Returns:
            float32 ``[B, K, H, W]``; sums to 1 over K.
        """

    def device_scores(self, pixels: FloatArray) -> Any:
        """The same, left on the device where they were computed."""

    @property
    def arrays(self) -> Arrays:
        """Sums scores on that device."""

    @property
    def notes(self) -> list[str]:
        """What people should know about how it runs."""


class IndexRules:
    """The baseline every evaluation reports: :func:`spex_core.priors.index_scores`, pixel by pixel."""

    def __init__(self, legend: Legend) -> None:
        self._legend = legend
        self.arrays: Arrays = HostArrays()
        self.notes: list[str] = []

    def fingerprint(self) -> str:
        return index_rules_fingerprint(self._legend)

    def scores(self, pixels: FloatArray) -> FloatArray:
        from spex_core.priors import index_scores

        return np.stack([index_scores(image, self._legend) for image in pixels])

    def device_scores(self, pixels: FloatArray) -> FloatArray:
        return self.scores(pixels)


def load_classifier(
    config: ModelConfig, legend: Legend, device: str = "cpu", *, tile_px: int | None = None, tiles: int = 0
) -> Classifier:
    """The classifier that ``config.checkpoint`` names.

    Args:
        config: The run file's section.
        legend: Classes of the scores.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        tile_px: Side of the tiles; without it nothing is compiled.
        tiles: Tiles of the whole plan; decides with ``compile: auto``.

    Raises:
        CheckpointError: No such checkpoint, it cannot be loaded, or not compiled where it must be.
    """
    if config.checkpoint == INDEX_RULES:
        return IndexRules(legend)
    from pipeline.predict.spex_model import SpexModel

    return SpexModel(config, legend, device, tile_px=tile_px, tiles=tiles)


def cut_tile(reflectance: FloatArray, read_window: Window, tile: Tile) -> FloatArray:
    """The pixels of one tile: a view, float32 ``[10, tile, tile]``, of ``reflectance`` ``[10, h, w]``."""
    row, col = tile.window.row - read_window.row, tile.window.col - read_window.col
    return reflectance[:, row : row + tile.window.height, col : col + tile.window.width]


def fill_invalid(tile: FloatArray) -> FloatArray | None:
    """Replaces missing pixels, because a network cannot take NaN and a zero would look like deep water.

    Args:
        tile: float32 ``[10, H, W]``; NaN where there is no measurement.

    Returns:
        The tile with each NaN replaced by the mean of its band over the tile's valid pixels (the tile itself where none
        is missing); None if there is nothing to classify. A band without a single valid pixel, where others have some,
        is one that the run does not read (``source.bands``): it stays NaN.
    """
    if pixel_loops.fits(tile, types=(np.float32,)):
        counts = np.zeros(len(tile), np.int64)
        pixel_loops.loops.count_known(tile, counts)
    else:
        counts = np.array([np.count_nonzero(np.isfinite(band)) for band in tile])
    if not counts.any():
        return None
    if (counts == tile[0].size).all():
        return tile
    filled = _zeros_for_missing(tile)
    means = (filled.sum(axis=(1, 2), dtype=np.float64) / np.maximum(counts, 1)).astype(np.float32)
    means[counts == 0] = np.nan
    if pixel_loops.fits(tile, types=(np.float32,)):
        pixel_loops.loops.fill_gaps(tile, means, filled)
    else:
        np.copyto(filled, means[:, None, None], where=~np.isfinite(tile))
    return filled


def _zeros_for_missing(tile: FloatArray) -> FloatArray:
    """A copy of a tile with zeros where it has no measurement."""
    if pixel_loops.fits(tile, types=(np.float32,)):
        filled = np.empty(tile.shape, np.float32)
        pixel_loops.loops.fill_gaps(tile, np.zeros(len(tile), np.float32), filled)
        return filled
    return np.where(np.isfinite(tile), tile, np.float32(0.0))


@dataclass
class MicroBatch:
    """How many tiles go through the model at once."""

    tiles: int
    """``model.tiles_per_forward``."""
    fits: int = 0
    """What the GPU has room for, as far as is known; default: all of them."""

    def __post_init__(self) -> None:
        self.fits = self.fits or self.tiles


def scored_tiles(
    classifier: Classifier,
    tiles: Iterable[FloatArray],
    *,
    classes: int,
    batch: MicroBatch,
    note: Callable[[str], None] = logger.warning,
) -> Iterator[Any]:
    """Scores of tiles, one by one and in order, computed in micro-batches of a fixed size.

    Tiles without any measurement get zeros, cost nothing and take no place in a micro-batch.

    Args:
        classifier: The model.
        tiles: Arrays float32 ``[10, t, t]``, NaN where there is no measurement.
        classes: K.
        batch: Size of a micro-batch; halved, for good, when the GPU runs out of memory.
        note: Is told when that happens.

    Yields:
        float32 ``[K, t, t]`` per tile, on the classifier's device.
    """
    waiting: list[FloatArray | None] = []
    nothing: FloatArray | None = None

    def flush() -> Iterator[Any]:
        pixels = [tile for tile in waiting if tile is not None]
        answers: list[Any] = []
        while len(answers) < len(pixels):
            part = pixels[len(answers) : len(answers) + batch.fits]
            full = False
            try:
                answers.extend(classifier.device_scores(np.stack(part)))
            except Exception as error:
                # Only the GPU's own complaint: any other error is a real one and must not be papered over.
                if type(error).__name__ != "OutOfMemoryError" or batch.fits == 1:
                    raise
                full = True
            if full:  # outside of the handler, whose traceback keeps the failed pass's tensors alive
                batch.fits = max(1, batch.fits // 2)
                note(
                    f"the GPU is out of memory; going on with {batch.fits} tiles per forward pass "
                    "(model.tiles_per_forward)"
                )
                _release_gpu_memory()
        found = iter(answers)
        for tile in waiting:
            yield nothing if tile is None and nothing is not None else next(found)
        waiting.clear()

    for raw in tiles:
        if nothing is None:
            nothing = np.zeros((classes, *raw.shape[1:]), np.float32)
        waiting.append(fill_invalid(raw))
        if sum(tile is not None for tile in waiting) == batch.tiles:
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
    software: Mapping[str, str] = field(default_factory=dict)
    """The plan's versions of what can change a pixel; an actor with others refuses to load."""


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
        self._loading = threading.Lock()  # several threads may share this object
        self._threads = threading.local()
        kind = device_kind(settings.model, settings.gpus)
        self._batch = MicroBatch(tiles_per_forward(settings.model, kind))  # what did not fit once is not tried again

    def load(self) -> int:
        """Loads the model (not in the constructor, so that its errors arrive as what they are).

        Returns:
            The process id.

        Raises:
            WorkerMismatchError: This process has other versions than the plan.
            CheckpointError: The model cannot be loaded.
        """
        with self._loading:
            if self._classifier is None:
                self._classifier = self._load()
        return os.getpid()

    def _load(self) -> Classifier:
        settings = self._settings
        check_worker(settings.software)
        self._set_threads()
        if settings.model.checkpoint != INDEX_RULES:
            import torch

            # As use_deterministic_algorithms does, but that also imports torch's compiler: as long as torch itself.
            torch.set_deterministic_debug_mode("warn")
        return load_classifier(
            settings.model,
            settings.legend,
            device_for(settings.model, settings.gpus),
            tile_px=settings.tiling.tile_px,
            tiles=sum(len(block.tiles) for zone in settings.zones for block in zone.blocks),
        )

    def _set_threads(self) -> None:
        """torch keeps the number of threads for each thread that calls it."""
        if self._settings.model.checkpoint != INDEX_RULES and not getattr(self._threads, "set", False):
            import torch

            torch.set_num_threads(self._settings.threads)
            self._threads.set = True

    def classify(self, zone: int, block: Block, targets: tuple[int, ...], reflectance: FloatArray | DatedPixels) -> Any:
        """Classifies one block.

        Args:
            zone: Position of the zone in the plan.
            block: The block.
            targets: Blocks of the zone that its tiles touch, in the order of the answer.
            reflectance: float32 ``[10, h, w]`` over ``block.read_window``; NaN where there is no measurement. Or its
                dates, which are classified one by one.

        Returns:
            One :class:`~pipeline.predict.stitch.Piece` per target (None where no tile of the block reaches it), then a
            :class:`ClassifyReport`.
        """
        if self._classifier is None:
            self.load()
        self._set_threads()
        settings = self._settings
        if self._classifier is None:
            raise CheckpointError("the model is not loaded")
        accumulator = TileAccumulator(block, settings.zones[zone], settings.tiling, self._classifier.arrays)
        notes = list(self._classifier.notes)
        self._classifier.notes.clear()  # told once, with the actor's first block
        score = functools.partial(
            scored_tiles, self._classifier, classes=len(settings.legend), batch=self._batch, note=notes.append
        )
        if isinstance(reflectance, DatedPixels):
            dated = (reflectance.cut(*slices(tile.window, block.read_window)) for tile in block.tiles)
            scored = fused_tiles(dated, score, self._classifier.arrays)
        else:
            scored = score(cut_tile(reflectance, block.read_window, tile) for tile in block.tiles)
        for tile, scores in zip(block.tiles, scored, strict=True):
            accumulator.add(tile, scores)
        pieces = accumulator.finish()
        return (*(pieces.get(target) for target in targets), ClassifyReport(tuple(notes), process_memory()))
