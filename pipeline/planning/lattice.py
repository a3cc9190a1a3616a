"""The lattice of overlapping tiles over a zone grid: which tiles there are, and which pixels each one decides.

Tiles begin at multiples of :data:`PHASE_PX` from the origin of the UTM zone, wherever a region begins. A network looks
at pixels in groups, and which pixels make up a group must not depend on the region (docs/decisions/0055).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.records.plan import Tile, Window, ZoneGrid

if TYPE_CHECKING:
    from pipeline.settings.run_file import TilingConfig


PHASE_PX = 32
"""The encoder's largest stride."""


def tile_stride(tiling: TilingConfig) -> int:
    """Distance of neighbouring tiles, px; also the side of a tile's core."""
    return tiling.tile_px - tiling.overlap_px


def lattice_origin(grid: ZoneGrid, tiling: TilingConfig) -> tuple[int, int]:
    """Row and column where the core of the first tile begins: 0, or so many pixels outside of the grid (negative)."""
    phase, step = min(PHASE_PX, tile_stride(tiling)), grid.resolution_m
    return -(round(-grid.top / step) % phase), -(round(grid.left / step) % phase)


def lattice_shape(grid: ZoneGrid, tiling: TilingConfig) -> tuple[int, int]:
    """Rows and columns of tiles over a grid."""
    stride = tile_stride(tiling)
    row, col = lattice_origin(grid, tiling)
    return math.ceil((grid.height - row) / stride), math.ceil((grid.width - col) / stride)


def lattice_tile(row: int, col: int, grid: ZoneGrid, tiling: TilingConfig) -> Tile:
    """The tile at a position of the lattice; its index counts the whole lattice row by row."""
    stride, halo, side = tile_stride(tiling), tiling.overlap_px // 2, tiling.tile_px
    index = row * lattice_shape(grid, tiling)[1] + col
    top, left = lattice_origin(grid, tiling)
    return Tile(index, Window(top + row * stride - halo, left + col * stride - halo, side, side))


def tile_position(tile: Tile, grid: ZoneGrid, tiling: TilingConfig) -> tuple[int, int]:
    """Row and column of a tile in the lattice: the inverse of :func:`lattice_tile`.

    Raises:
        ValueError: The tile is not on the lattice of this tiling.
    """
    stride, halo, side = tile_stride(tiling), tiling.overlap_px // 2, tiling.tile_px
    top, left = lattice_origin(grid, tiling)
    row, row_off = divmod(tile.window.row + halo - top, stride)
    col, col_off = divmod(tile.window.col + halo - left, stride)
    if row_off or col_off or (tile.window.height, tile.window.width) != (side, side):
        raise ValueError(
            f"tile {tile.index} at {tile.window} is not on the lattice of tile {side} px, stride {stride} px"
        )
    return row, col


def contributing_window(tile: Tile, grid: ZoneGrid, tiling: TilingConfig) -> Window:
    """Grid pixels where the tile's weight is not zero."""
    rows, cols = lattice_shape(grid, tiling)
    row, col = tile_position(tile, grid, tiling)
    down, across = lattice_origin(grid, tiling)
    first, height = _contributing_range(row, rows, grid.height, down, tiling)
    left, width = _contributing_range(col, cols, grid.width, across, tiling)
    return Window(first, left, height, width)


def _contributing_range(i: int, n: int, size: int, origin: int, tiling: TilingConfig) -> tuple[int, int]:
    start = origin + i * tile_stride(tiling) - tiling.overlap_px // 2
    first = max(start + tiling.margin, 0) if i > 0 else 0
    last = min(start + tiling.tile_px - tiling.margin, size) if i < n - 1 else size
    return first, last - first


def union_window(windows: Sequence[Window]) -> Window:
    """Smallest window that holds all of one or more windows."""
    row, col = min(w.row for w in windows), min(w.col for w in windows)
    height = max(w.row + w.height for w in windows) - row
    width = max(w.col + w.width for w in windows) - col
    return Window(row, col, height, width)
