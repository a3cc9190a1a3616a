"""The overlap-weighted merge of tiles into output blocks: no seam, fixed order, bounded memory.

Each tile is weighted by a separable raised cosine (Hann ramp) over its overlaps. The weights of all tiles of a zone sum
to one at every pixel of its grid, and a tile's outermost ``margin`` pixels weigh nothing: a model whose receptive field
is no wider than the margin gives the same map as one huge tile.

A block classifies its own tiles and cuts their weighted sum into one :class:`Piece` per block that they touch; a block
is merged from the pieces of the blocks it needs. Sums are float32 and taken in the plan's order (tiles ascending within
a block, then blocks ascending), so the result does not depend on who computed what, or when.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.machine import pixel_loops
from pipeline.planning.lattice import contributing_window, lattice_origin, lattice_shape, tile_position, union_window
from pipeline.records.plan import Block, Tile, Window, ZoneGrid, ZonePlan
from pipeline.records.windows import intersection, slices
from spex_core.legend import Legend

if TYPE_CHECKING:
    from pipeline.settings.run_file import TilingConfig

FloatArray = npt.NDArray[np.float32]

CONFIDENCE_NODATA = 255
"""Confidence is percent 0..100, and 0 is a legal percent."""
SCORE_SCALE = 255
"""Stored score = round(score * 255)."""
VOTE_SCALE = 2**20
"""Steps of a logarithm of a score; 128 of the lowest fit into an int32."""
LEAST_SCORE = 1e-4
"""Scores of a date below this count as this: no single date has a veto."""


@dataclass(frozen=True)
class Piece:
    """What the tiles of one block add to (part of) another."""

    window: Window
    """Grid pixels covered, inside the target block."""
    weighted_scores: FloatArray
    """Sum of weight * score, float32 ``[K, height, width]``."""
    weight: FloatArray
    """Sum of weights, float32 ``[height, width]``; at most 1."""


@dataclass(frozen=True)
class BlockLayers:
    """Final class layers of one block, uint8, ``[height, width]`` (scores: ``[K, height, width]``)."""

    scores: npt.NDArray[np.uint8]
    """round(255 * score); all zero where there is no map."""
    landcover: npt.NDArray[np.uint8]
    """Legend codes; the legend's nodata where there is no map."""
    confidence: npt.NDArray[np.uint8]
    """round(100 * highest score); 255 where there is no map."""


# --- weights ------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def _axis_weights(i: int, n: int, size: int, origin: int, tile_px: int, overlap_px: int, margin_px: int) -> FloatArray:
    """Weights of tile ``i`` of ``n`` along one axis of ``size`` px: float32 ``[tile_px]``."""
    weights = np.ones(tile_px, dtype=np.float32)
    ramp_px = overlap_px - 2 * margin_px
    rising = np.zeros(overlap_px, dtype=np.float32)
    rising[overlap_px - margin_px :] = 1.0
    rising[margin_px : margin_px + ramp_px] = np.sin(0.5 * np.pi * (np.arange(ramp_px) + 0.5) / max(ramp_px, 1)) ** 2
    if i > 0:
        weights[:overlap_px] = rising
    if i < n - 1:
        # The complement of the next tile's rise, not a mirrored rise: the two then sum to one to the last bit.
        weights[tile_px - overlap_px :] = np.float32(1.0) - rising
    position = np.arange(tile_px) + (origin + i * (tile_px - overlap_px) - overlap_px // 2)
    weights[(position < 0) | (position >= size)] = 0.0
    weights.flags.writeable = False
    return weights


def tile_weights(grid: ZoneGrid, tile: Tile, tiling: TilingConfig) -> FloatArray:
    """Blending weights of one tile.

    Zero outside the grid and in the outer ``margin`` px of the tile, except at the map border, where there is no
    neighbour to take over. Over all tiles of the lattice the weights sum to one at every grid pixel.

    Returns:
        float32 ``[tile_px, tile_px]``.

    Raises:
        ValueError: The tile is not on the lattice of this tiling.
    """
    rows, cols = lattice_shape(grid, tiling)
    row, col = tile_position(tile, grid, tiling)
    top, left = lattice_origin(grid, tiling)
    shape = (tiling.tile_px, tiling.overlap_px, tiling.margin)
    down = _axis_weights(row, rows, grid.height, top, *shape)
    across = _axis_weights(col, cols, grid.width, left, *shape)
    return down[:, None] * across[None, :]


# --- tiles of one block -> pieces ---------------------------------------------------------------------------------


def target_blocks(block: Block, zone: ZonePlan, tiling: TilingConfig) -> tuple[tuple[int, Window], ...]:
    """Planned blocks that this block's tiles touch: index and shared window bound, ascending.

    The window is the part of the target that the union of the tiles' contributing windows can reach.
    """
    extent = _extent(block, zone.grid, tiling)
    if extent is None:
        return ()
    size = tiling.block_px
    touching = [contributing_window(tile, zone.grid, tiling) for tile in block.tiles]
    found = []
    for row in range(extent.row // size, (extent.row + extent.height - 1) // size + 1):
        for col in range(extent.col // size, (extent.col + extent.width - 1) // size + 1):
            target = _block_at(zone.blocks, row * size, col * size)
            if target is None or not any(intersection(target.window, window) for window in touching):
                continue
            shared = intersection(target.window, extent)
            if shared is not None:
                found.append((target.index, shared))
    return tuple(sorted(found, key=lambda item: item[0]))


def _block_at(blocks: Sequence[Block], row: int, col: int) -> Block | None:
    """The block whose window starts at a pixel; blocks are in row-major order."""
    at = bisect.bisect_left(blocks, (row, col), key=lambda block: (block.window.row, block.window.col))
    if at < len(blocks) and (blocks[at].window.row, blocks[at].window.col) == (row, col):
        return blocks[at]
    return None


def _extent(block: Block, grid: ZoneGrid, tiling: TilingConfig) -> Window | None:
    """Smallest window that holds the contributing windows of a block's tiles."""
    if not block.tiles:
        return None
    windows = [contributing_window(tile, grid, tiling) for tile in block.tiles]
    return union_window(windows)


class Arrays(Protocol):
    """Where scores are summed. Sums are float32, each product and each sum rounded once, so places agree to the bit."""

    def zeros(self, shape: tuple[int, ...]) -> Any:
        """float32 zeros."""

    def put(self, values: Any) -> Any:
        """Values of this place or the host as float32 of this place."""

    def fetch(self, values: Any) -> FloatArray:
        """A contiguous copy on the host."""

    def log_votes(self, scores: Any, own: npt.NDArray[np.bool_]) -> Any:
        """Logarithms of scores as whole numbers, which add up to the same in any order.

        Args:
            scores: float32 ``[K, h, w]``, of this place or the host.
            own: bool ``[h, w]``: elsewhere the numbers are 0.

        Returns:
            int32 ``[K, h, w]``: round(:data:`VOTE_SCALE` * log(score)), of scores of :data:`LEAST_SCORE` at least.
        """

    def pooled(self, votes: Any, counts: npt.NDArray[np.integer]) -> Any:
        """The mean of such numbers as scores: float32 ``[K, h, w]``, summing to one; ``counts`` ``[h, w]`` of them."""


class HostArrays:
    """Sums in NumPy."""

    def zeros(self, shape: tuple[int, ...]) -> FloatArray:
        """float32 zeros."""
        return np.zeros(shape, dtype=np.float32)

    def put(self, values: FloatArray) -> FloatArray:
        """The values themselves, if they are float32."""
        return values.astype(np.float32, copy=False)

    def fetch(self, values: FloatArray) -> FloatArray:
        """A contiguous array."""
        return np.ascontiguousarray(values)

    def log_votes(self, scores: FloatArray, own: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
        """See :meth:`Arrays.log_votes`."""
        values = np.log(np.maximum(scores, np.float32(LEAST_SCORE)))
        values *= np.float32(VOTE_SCALE)
        return np.where(own, np.rint(values), 0).astype(np.int32)

    def pooled(self, votes: npt.NDArray[np.int32], counts: npt.NDArray[np.integer]) -> FloatArray:
        """See :meth:`Arrays.pooled`."""
        mean = votes / (np.float32(VOTE_SCALE) * np.maximum(counts, 1).astype(np.float32))
        shares = np.exp(mean.astype(np.float32))
        return np.asarray(shares / shares.sum(axis=0, keepdims=True), np.float32)


class TileAccumulator:
    """Weighted sum of one block's tiles, fed in micro-batches so that scores need not be held all at once.

    Tiles must come in the block's order, because float sums depend on it. Memory: ``(K + 1) * 4`` bytes for each pixel
    of the block and the reach of its tiles. With a model on a GPU the sum stays there: overlaps are added before they
    travel, and one transfer per block takes the place of one per micro-batch.
    """

    def __init__(self, block: Block, zone: ZonePlan, tiling: TilingConfig, arrays: Arrays | None = None) -> None:
        self._arrays = arrays or HostArrays()
        self._block = block
        self._grid = zone.grid
        self._tiling = tiling
        self._targets = target_blocks(block, zone, tiling)
        self._extent = _extent(block, zone.grid, tiling)
        self._next = 0
        self._scores: Any = None
        self._weight: FloatArray | None = None

    def add(self, tile: Tile, scores: Any) -> None:
        """Adds the next tile.

        Args:
            tile: The block's next tile.
            scores: float32 ``[K, tile_px, tile_px]``, on the host or where sums are taken.

        Raises:
            ValueError: Not the block's next tile, or scores of another shape.
        """
        expected = self._block.tiles[self._next] if self._next < len(self._block.tiles) else None
        if tile != expected:
            raise ValueError(
                f"block {self._block.index} expects tile {expected} next, not {tile.index}: order decides sums"
            )
        side = self._tiling.tile_px
        if scores.ndim != 3 or scores.shape[1:] != (side, side):
            raise ValueError(f"scores of tile {tile.index} have shape {scores.shape}, expected (K, {side}, {side})")
        assert self._extent is not None  # a block that has a tile has an extent
        if self._scores is None or self._weight is None:
            extent = (self._extent.height, self._extent.width)
            self._scores = self._arrays.zeros((scores.shape[0], *extent))
            self._weight = np.zeros(extent, dtype=np.float32)
        elif scores.shape[0] != self._scores.shape[0]:
            raise ValueError(f"tile {tile.index} has {scores.shape[0]} classes, those before {self._scores.shape[0]}")
        window = contributing_window(tile, self._grid, self._tiling)
        source = slices(window, tile.window)
        target = slices(window, self._extent)
        weights = tile_weights(self._grid, tile, self._tiling)[source]
        part = self._arrays.put(scores[(slice(None), *source)])
        self._scores[(slice(None), *target)] += part * self._arrays.put(weights)
        self._weight[target] += weights
        self._next += 1

    def finish(self) -> dict[int, Piece]:
        """Cuts the sum into one piece per touched block: target block index → piece.

        Raises:
            ValueError: Tiles are missing.
        """
        if self._next != len(self._block.tiles):
            raise ValueError(f"block {self._block.index} got {self._next} of its {len(self._block.tiles)} tiles")
        if self._scores is None or self._weight is None or self._extent is None:
            return {}
        pieces = {}
        for index, window in self._targets:
            part = slices(window, self._extent)
            pieces[index] = Piece(
                window,
                self._arrays.fetch(self._scores[(slice(None), *part)]),
                np.ascontiguousarray(self._weight[part]),
            )
        return pieces


# --- pieces -> block ----------------------------------------------------------------------------------------------


def merge(window: Window, pieces: Iterable[Piece], classes: int | None = None) -> FloatArray:
    """Joins the pieces of one block and normalises by the weight that arrived.

    A piece that is missing (its block failed) leaves its pixels to the tiles that did arrive; where none did: NaN.

    Args:
        window: The block's window.
        pieces: In the order of ``block.needs``.
        classes: K; needed only where there may be no piece at all.

    Returns:
        float32 ``[K, height, width]``.

    Raises:
        ValueError: A piece lies outside the window, or there is none and ``classes`` was not given.
    """
    total: FloatArray | None = None
    weight = np.zeros((window.height, window.width), dtype=np.float32)
    for piece in pieces:
        if intersection(piece.window, window) != piece.window:
            raise ValueError(f"piece {piece.window} lies outside block {window}")
        if total is None:
            total = np.zeros((piece.weighted_scores.shape[0], window.height, window.width), dtype=np.float32)
        part = slices(piece.window, window)
        total[(slice(None), *part)] += piece.weighted_scores
        weight[part] += piece.weight
    if total is None:
        if classes is None:
            raise ValueError("a block without pieces needs the number of classes")
        total = np.zeros((classes, window.height, window.width), dtype=np.float32)
    with np.errstate(invalid="ignore"):
        total /= weight  # 0/0 = NaN: nobody saw this pixel
    return total


def finalise(
    scores: FloatArray, valid_count: npt.NDArray[np.integer], mask: npt.NDArray[np.bool_], legend: Legend
) -> BlockLayers:
    """Scores → the layers that are kept.

    Args:
        scores: float32 ``[K, height, width]``, summing to one over K; NaN = no map.
        valid_count: ``[height, width]``, valid observations per pixel; 0 = no map.
        mask: bool ``[height, width]``; false = outside the mapped area.
        legend: Names the K channels.

    Raises:
        ValueError: Shapes do not match each other or the legend.
    """
    if scores.ndim != 3 or not scores.shape[1:] == valid_count.shape == mask.shape or scores.shape[0] != len(legend):
        raise ValueError(
            f"scores {scores.shape}, valid_count {valid_count.shape}, mask {mask.shape} do not fit "
            f"{len(legend)} classes on one grid"
        )
    if pixel_loops.fits(scores, valid_count, mask, types=(np.float32, np.uint8, np.bool_)):
        layers = BlockLayers(
            np.empty(scores.shape, np.uint8), np.empty(mask.shape, np.uint8), np.empty_like(mask, np.uint8)
        )
        known_codes, none = np.array(legend.codes, np.uint8), (legend.nodata, CONFIDENCE_NODATA)
        written = layers.scores, layers.landcover, layers.confidence
        pixel_loops.loops.finalise(scores, valid_count, mask, known_codes, *none, *written)
        return layers
    known = mask & (valid_count > 0) & np.isfinite(scores).all(axis=0)
    clean = np.clip(scores, np.float32(0.0), np.float32(1.0))
    # Channel by channel, several times faster than argmax over the first axis; a tie goes to the lowest channel.
    top = clean[0].copy()
    highest = np.zeros(top.shape, np.uint8)
    for index, channel in enumerate(clean[1:], start=1):
        np.maximum(highest, (channel > top).view(np.uint8) * np.uint8(index), out=highest)
        np.fmax(top, channel, out=top)
    landcover = np.array(legend.codes, np.uint8)[highest]
    top *= np.float32(100.0)
    clean *= np.float32(SCORE_SCALE)
    with np.errstate(invalid="ignore"):  # of what is not known, which is overwritten
        percent, stored = (np.rint(values, out=values).astype(np.uint8) for values in (top, clean))
    unknown = ~known
    landcover[unknown], percent[unknown] = legend.nodata, CONFIDENCE_NODATA
    stored[:, unknown] = 0
    return BlockLayers(stored, landcover, percent)
