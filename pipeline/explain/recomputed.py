"""Part of a map computed again, by the code and in the order that made it: the same reflectance gives the same classes.

Only tiles that reach the wanted pixels are read and classified. Tiles that reach none of them add nothing there, so
leaving them out changes no bit of the sums.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.engine.tasks import FloatArray
from pipeline.errors import ReadError, StoreError
from pipeline.explain.kept_run import KeptRun, MappedPixel
from pipeline.imagery.composite import Composite, read_composite
from pipeline.planning.lattice import contributing_window, union_window
from pipeline.predict.classifier import Classifier, MicroBatch, cut_tile, load_classifier, scored_tiles
from pipeline.predict.fusion import fused_tiles
from pipeline.predict.stitch import Piece, TileAccumulator, finalise, merge
from pipeline.predict.word_model import without_bars
from pipeline.records.dated_pixels import DatedPixels
from pipeline.records.plan import Block, Tile, Window, ZonePlan
from pipeline.records.windows import intersection, slices
from pipeline.settings.model import INDEX_RULES, device_kind, tiles_per_forward
from pipeline.settings.run_file import RunConfig, TilingConfig
from spex_core.legend import Legend


@dataclass(frozen=True)
class Recomputed:
    """What the model saw and said around one pixel."""

    read_window: Window
    reflectance: FloatArray
    """float32 ``[10, h, w]`` over ``read_window``: the composite; NaN where there is no measurement."""
    valid_count: int
    """Of the pixel."""
    scores: FloatArray
    """float32 ``[K]`` at the pixel, as stitched."""
    code: int
    """Class of these scores."""
    tile: Tile
    """The one that decides most at the pixel."""
    problems: tuple[str, ...]


def reaching(block: Block, zone: ZonePlan, tiling: TilingConfig, wanted: Sequence[Window]) -> Block | None:
    """The block with those of its tiles only that have weight in one of the wanted windows; None if none has.

    Its read window is that of these tiles.

    Raises:
        StoreError: The tiles were laid out by an earlier version.
    """
    try:
        reaches = [contributing_window(tile, zone.grid, tiling) for tile in block.tiles]
    except ValueError as error:
        raise StoreError(
            f"the map was planned by a version that laid tiles out otherwise ({error}): run it again"
        ) from (error)
    tiles = tuple(
        tile
        for tile, reach in zip(block.tiles, reaches, strict=True)
        if any(intersection(reach, window) for window in wanted)
    )
    if not tiles:
        return None
    return dataclasses.replace(block, tiles=tiles, read_window=union_window([tile.window for tile in tiles]))


def model_of(config: RunConfig, legend: Legend) -> Classifier:
    """The classifier of a run on this machine's CPU, or its GPU where the run used one and one is there.

    Raises:
        CheckpointError: It cannot be loaded.
    """
    device = "cpu"
    if config.model.checkpoint != INDEX_RULES:
        import torch

        without_bars()
        torch.set_num_threads(config.compute.threads_per_actor)  # sums depend on it
        if device_kind(config.model, config.compute.gpus_per_actor) == "cuda" and torch.cuda.is_available():
            device = "cuda"
    return load_classifier(config.model.model_copy(update={"compile": "off"}), legend, device)


def micro_batch(config: RunConfig) -> MicroBatch:
    """Tiles in one forward pass, as in the run."""
    return MicroBatch(tiles_per_forward(config.model, device_kind(config.model, config.compute.gpus_per_actor)))


def pieces_of(
    source: Block,
    pixels: FloatArray | DatedPixels,
    zone: ZonePlan,
    config: RunConfig,
    classifier: Classifier,
    classes: int,
    batch: MicroBatch,
) -> dict[int, Piece]:
    """Weighted scores of a block's tiles by the block that they fall into, as :class:`BlockClassifier` makes them.

    Args:
        source: A block of :func:`reaching`.
        pixels: float32 ``[10, h, w]`` over its read window, or its dates where the map joined them.
        zone: Its zone.
        config: Of the run.
        classifier: The model.
        classes: K.
        batch: Micro-batch.
    """
    accumulator = TileAccumulator(source, zone, config.tiling, classifier.arrays)
    score = functools.partial(scored_tiles, classifier, classes=classes, batch=batch)
    if isinstance(pixels, DatedPixels):
        dated = (pixels.cut(*slices(tile.window, source.read_window)) for tile in source.tiles)
        scored = fused_tiles(dated, score, classifier.arrays)
    else:
        scored = score(cut_tile(pixels, source.read_window, tile) for tile in source.tiles)
    for tile, scores in zip(source.tiles, scored, strict=True):
        accumulator.add(tile, scores)
    return accumulator.finish()


def recompute(run: KeptRun, pixel: MappedPixel, classifier: Classifier) -> Recomputed:
    """Reads the composite around a pixel and classifies it as the map was.

    Raises:
        ReadError: None of the scenes that the map was made from gave the pixel a value.
        StoreError: The plan does not reach the pixel.
    """
    zone, config = pixel.zone, run.config
    sources = [
        found
        for index in pixel.block.needs
        if (found := reaching(zone.blocks[index], zone, config.tiling, [pixel.window])) is not None
    ]
    if not sources:
        raise StoreError(f"no tile of the plan reaches row {pixel.row}, column {pixel.col} of EPSG:{zone.grid.epsg}")
    window = union_window([source.read_window for source in sources])
    composite = read_composite(run.scenes(zone), zone.grid, window, config.composite, run.door)
    at = (pixel.row - window.row, pixel.col - window.col)
    _require_measured(composite, at)
    batch, pieces = micro_batch(config), []
    for source in sources:
        at_source = slices(source.read_window, window)
        dated = composite.dated
        pixels = composite.reflectance[(slice(None), *at_source)] if dated is None else dated.cut(*at_source)
        parts = pieces_of(source, pixels, zone, config, classifier, len(run.legend), batch)
        if (piece := parts.get(pixel.block.index)) is not None:
            pieces.append(piece)
    scores = merge(pixel.block.window, pieces, classes=len(run.legend))
    own = slices(pixel.window, pixel.block.window)
    here: FloatArray = np.ascontiguousarray(scores[(slice(None), *own)])
    counts = composite.valid_count[at[0] : at[0] + 1, at[1] : at[1] + 1]
    layers = finalise(here, counts, np.ones((1, 1), np.bool_), run.legend)
    tiles = [tile for source in sources for tile in source.tiles]
    return Recomputed(
        read_window=window,
        reflectance=composite.reflectance,
        valid_count=int(counts[0, 0]),
        scores=here[:, 0, 0],
        code=int(layers.landcover[0, 0]),
        tile=min(tiles, key=lambda tile: _distance(tile, pixel)),
        problems=composite.problems,
    )


def tile_scores(classifier: Classifier, tiles: Sequence[FloatArray]) -> list[npt.NDArray[np.float32]]:
    """Scores of complete images, one by one: float32 ``[K, h, w]`` each."""
    return [classifier.scores(tile[None])[0] for tile in tiles]


def _distance(tile: Tile, pixel: MappedPixel) -> tuple[Any, ...]:
    """How far a pixel is from a tile's middle: the nearest tile has the greatest weight."""
    window = tile.window
    down, across = pixel.row - window.row - window.height / 2, pixel.col - window.col - window.width / 2
    return max(abs(down), abs(across)), tile.index


def _require_measured(composite: Composite, at: tuple[int, int]) -> None:
    if np.isfinite(composite.reflectance[:, at[0], at[1]]).any():
        return
    reason = composite.problems[0] if composite.problems else "no scene of the plan has a clear value there"
    more = f" (and {len(composite.problems) - 1} more)" if len(composite.problems) > 1 else ""
    raise ReadError(f"the map's scenes give no value there any more: {reason}{more}")
