"""The cloud network on one scene of a window: where there is thick or thin cloud, or the shadow of one.

It is asked on cells of about 20 m that lie on the lattice of the projection's origin, with as much around the window as
it looks at, so that neighbouring windows agree. torch is imported on first use: readers of runs that believe the scene
classification alone have no need of it.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.imagery.copies import Notes
from pipeline.imagery.stack import load
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.scene import Scene
from pipeline.settings.cloud_model import cloud_folder
from pipeline.sources.hrefs import AssetDoor
from spex_core.cloud_classes import CHANNELS, SHADOW, THICK, THIN, cloud_bands

if TYPE_CHECKING:
    from spex_core.cloud_detector import CloudDetector

CELL_M = 20.0
"""Size of the pixels that the network is asked on, about: what it was trained for, and that of half the bands."""

_Float = npt.NDArray[np.float32]


def detect_clouds(
    scene: Scene,
    grid: ZoneGrid,
    window: Window,
    checkpoint: str,
    door: AssetDoor | None = None,
    notes: Notes | None = None,
) -> npt.NDArray[np.bool_]:
    """Where the network sees cloud or shadow.

    Args:
        scene: Its bands are read here.
        grid: Output grid.
        window: Of that grid's lattice; may lie outside the grid.
        checkpoint: Built-in name or folder of the network.
        door: What may be opened; None: each file's own server.
        notes: Told of copies that were read in place of others.

    Returns:
        bool ``[h, w]``; false where the scene has no data.

    Raises:
        CheckpointError: The network cannot be loaded.
        ReadError: A file cannot be read, nor any copy of it.
    """
    detector = _detector(checkpoint)
    per_cell = max(1, round(CELL_M / grid.resolution_m))
    cells, offset = _cells(grid, window, per_cell)
    reflectance = cell_reflectance(scene, grid, cells, per_cell, door, notes)
    classes = detector.classes(reflectance)
    covered = np.isin(classes, (THICK, THIN, SHADOW)) & ~np.isnan(reflectance).all(axis=0)
    fine = covered.repeat(per_cell, axis=0).repeat(per_cell, axis=1) if per_cell > 1 else covered
    row, col = offset
    return np.ascontiguousarray(fine[row : row + window.height, col : col + window.width])


def _cells(grid: ZoneGrid, window: Window, per_cell: int) -> tuple[Window, tuple[int, int]]:
    """The cells to ask about, on the lattice of cells, and where the window begins in them, in pixels."""
    from spex_core.cloud_network import HALO_PX, STEP_PX

    step = grid.resolution_m
    origin = round(-grid.top / step) + window.row, round(grid.left / step) + window.col
    starts, sizes = [], []
    for first, size in zip(origin, (window.height, window.width), strict=True):
        start = math.floor(first / per_cell / STEP_PX) * STEP_PX - HALO_PX
        end = math.ceil((first + size) / per_cell / STEP_PX) * STEP_PX + HALO_PX
        starts.append(start)
        sizes.append(end - start)
    offset = origin[0] - starts[0] * per_cell, origin[1] - starts[1] * per_cell
    return Window(starts[0], starts[1], sizes[0], sizes[1]), offset


def cell_reflectance(
    scene: Scene,
    grid: ZoneGrid,
    cells: Window,
    per_cell: int,
    door: AssetDoor | None = None,
    notes: Notes | None = None,
) -> _Float:
    """What the network is given: float32 ``[6, h, w]``, NaN where there is no measurement or no such band.

    Args:
        scene: The scene.
        grid: Output grid.
        cells: Rows and columns of the lattice of cells, from the projection's origin.
        per_cell: Pixels of the grid along a cell's side.
        door: As for :func:`detect_clouds`.
        notes: As for :func:`detect_clouds`.
    """
    step = grid.resolution_m * per_cell
    coarse_grid = replace(grid, left=0.0, top=0.0, resolution_m=step, height=1, width=1)
    fine_grid = replace(coarse_grid, resolution_m=grid.resolution_m)
    fine_window = Window(*(per_cell * v for v in (cells.row, cells.col, cells.height, cells.width)))
    out = np.full((len(CHANNELS), cells.height, cells.width), np.nan, np.float32)
    names = cloud_bands(list(scene.assets))
    fine = [i for i, name in enumerate(names) if name and per_cell > 1 and scene.assets[name].gsd_m < step]
    coarse = [i for i, name in enumerate(names) if name and i not in fine]
    for positions, on_grid, window in ((coarse, coarse_grid, cells), (fine, fine_grid, fine_window)):
        wanted = [str(names[i]) for i in positions]
        if not wanted:
            continue
        read = load([scene], wanted, on_grid, window, door, notes)[0]
        for i, name, values in zip(positions, wanted, read, strict=True):
            if window is fine_window:
                values = values.reshape(cells.height, per_cell, cells.width, per_cell).mean(axis=(1, 3))
            asset = scene.assets[name]
            out[i] = values * np.float32(asset.scale) + np.float32(asset.offset)
    return out


@functools.lru_cache(maxsize=2)
def _detector(checkpoint: str) -> CloudDetector:
    from spex_core.cloud_detector import CloudDetector

    return CloudDetector.load(cloud_folder(checkpoint))
