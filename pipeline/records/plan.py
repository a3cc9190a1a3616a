"""The plan: everything a run will do, decided before a pixel is read. A pure function of config, region and scenes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.records.scene import Scene


@dataclass(frozen=True)
class Window:
    """A pixel rectangle of a zone grid; row and column may lie outside the grid (halo)."""

    row: int
    col: int
    height: int
    width: int


@dataclass(frozen=True)
class ZoneGrid:
    """The output grid of one UTM zone: north-up, snapped to multiples of the resolution."""

    epsg: int
    left: float
    """Easting of the left edge, metres."""
    top: float
    """Northing of the top edge, metres."""
    resolution_m: float
    height: int
    """Rows, px."""
    width: int
    """Columns, px."""


@dataclass(frozen=True)
class Tile:
    """One model input."""

    index: int
    """Position in the zone's fixed order (row-major)."""
    window: Window
    """Whole tile, halo included; square, ``tile_px`` on a side."""


@dataclass(frozen=True)
class Block:
    """One unit of work and one chunk of the store: it reads once, classifies its own tiles, and is written once.

    A tile belongs to the block that holds the upper-left pixel of its core; its outer pixels may fall in
    neighbouring blocks, so a block is finished when every block in ``needs`` has been classified.
    """

    index: int
    window: Window
    """Output pixels (clipped to the grid)."""
    read_window: Window
    """Union of its tiles and its own window."""
    tiles: tuple[Tile, ...]
    needs: tuple[int, ...]
    """Blocks (itself included) whose tiles touch this window, ascending: the fixed order of summation."""


@dataclass(frozen=True)
class ZonePlan:
    """One map item: one UTM zone."""

    grid: ZoneGrid
    blocks: tuple[Block, ...]
    scene_ids: tuple[str, ...]


@dataclass(frozen=True)
class MapPlan:
    """All zones of a run, its scenes and its settings."""

    run_id: str
    """First 16 hex digits of sha256 over everything that can change a pixel: same id, same map."""
    config: dict[str, Any]
    scenes: tuple[Scene, ...]
    zones: tuple[ZonePlan, ...]
    software: dict[str, str]
    """Name → version of what can change a pixel."""

    def date_layers(self, zone: ZonePlan) -> int:
        """Layers of dates with which the pixels of a block of a zone travel to the model, at most; 0: without any."""
        composite = self.config.get("composite", {})
        if composite.get("method") != "fuse":
            return 0
        return min(int(composite["max_observations"]), len(zone.scene_ids))
