"""The lattice of overlapping tiles over a zone grid: which tiles there are, and which pixels each one decides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.records.plan import Tile, Window, ZoneGrid

if TYPE_CHECKING:
    from pipeline.settings.run_file import TilingConfig


def tile_stride(tiling: TilingConfig) -> int:
    """Distance of neighbouring tiles, px; also the side of a tile's core."""
    return tiling.tile_px - tiling.overlap_px


def lattice_shape(grid: ZoneGrid, tiling: TilingConfig) -> tuple[int, int]:
    """Rows and columns of tiles over a grid."""
    stride = tile_stride(tiling)
    return math.ceil(grid.height / stride), math.ceil(grid.width / stride)


def lattice_tile(row: int, col: int, grid: ZoneGrid, tiling: TilingConfig) -> Tile:
    """The tile at a position of the lattice; its index counts the whole lattice row by row."""
    stride, halo, side = tile_stride(tiling), tiling.overlap_px // 2, tiling.tile_px
    index = row * lattice_shape(grid, tiling)[1] + col
    return Tile(index, Window(row * stride - halo, col * stride - halo, side, side))


def tile_position(tile: Tile, tiling: TilingConfig) -> tuple[int, int]:
    """Row and column of a tile in the lattice: the inverse of :func:`lattice_tile`.

    Raises:
        ValueError: The tile is not on the lattice of this tiling.
    """
    stride, halo, side = tile_stride(tiling), tiling.overlap_px // 2, tiling.tile_px
    row, row_off = divmod(tile.window.row + halo, stride)
    col, col_off = divmod(tile.window.col + halo, stride)
    if row_off or col_off or (tile.window.height, tile.window.width) != (side, side):
        raise ValueError(
            f"tile {tile.index} at {tile.window} is not on the lattice of tile {side} px, stride {stride} px"
        )
    return row, col


def contributing_window(tile: Tile, grid: ZoneGrid, tiling: TilingConfig) -> Window:
    """Grid pixels where the tile's weight is not zero."""
    rows, cols = lattice_shape(grid, tiling)
    row, col = tile_position(tile, tiling)
    first, height = _contributing_range(row, rows, grid.height, tiling)
    left, width = _contributing_range(col, cols, grid.width, tiling)
    return Window(first, left, height, width)


def _contributing_range(i: int, n: int, size: int, tiling: TilingConfig) -> tuple[int, int]:
    start = i * tile_stride(tiling) - tiling.overlap_px // 2
    first = start + tiling.margin if i > 0 else 0
    last = min(start + tiling.tile_px - tiling.margin, size) if i < n - 1 else size
    return first, last - first


def union_window(windows: Sequence[Window]) -> Window:
    """Smallest window that holds all of one or more windows."""
    row, col = min(w.row for w in windows), min(w.col for w in windows)
    height = max(w.row + w.height for w in windows) - row
    width = max(w.col + w.width for w in windows) - col
    return Window(row, col, height, width)
