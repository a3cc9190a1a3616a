"""Spectral indices of published maps, lazily, out of the stores of their runs; files of a map hold none.

A run keeps them as means per class and cell (:mod:`pipeline.mapstore.index_cells`). A pixel has here the mean of its
class in its cell of 80 m: what the explanations are made of. A store that ``spex clean`` removed has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import xarray as xr

from pipeline.errors import ReadError
from pipeline.mapstore.index_cells import CELL_PX, INDEX_NODATA, INDEX_SCALE
from pipeline.mapstore.store import RunStore, run_folder
from pipeline.records.plan import Window
from spex_core.errors import SpexError
from spex_core.indices import SPECTRAL_INDICES

_DASK: Any = dask.array  # typed in part only


@dataclass(frozen=True)
class KeptRun:
    """The kept run of one map, and where its grid lies in the common one."""

    folder: Path
    epsg: int
    row: int
    col: int


def kept_run(output: Path, run_id: str, epsg: int, offset: tuple[int, int], size: tuple[int, int]) -> KeptRun | None:
    """The run of a map, if its store is there and of the map's grid.

    Args:
        output: The output folder.
        run_id: Of the item.
        epsg: Zone of the map.
        offset: Row and column of the map in the common grid.
        size: Height and width of the map, pixels.
    """
    folder = run_folder(output, run_id)
    if not (folder / "plan.json").is_file():
        return None
    try:
        grid = RunStore.open(folder).zone(epsg).grid
    except SpexError:
        return None
    return KeptRun(folder, epsg, *offset) if (grid.height, grid.width) == size else None


def indices_variable(runs: Sequence[KeptRun], rows: tuple[int, ...], cols: tuple[int, ...]) -> xr.DataArray:
    """Indices of every period, float32 ``[period, index, y, x]``; NaN where there is no map or no index.

    Args:
        runs: Of the periods.
        rows: Heights of what is read at once; their sum is the height of the common grid.
        cols: Widths.
    """
    layers = [
        _DASK.map_blocks(
            _read, chunks=((len(SPECTRAL_INDICES),), rows, cols), dtype=np.float32,
            meta=np.empty((0, 0, 0), np.float32), run=run, name=f"{run.folder.name}-{run.epsg}-indices",
        )
        for run in runs
    ]  # fmt: skip
    array = xr.DataArray(_DASK.stack(layers), dims=("period", "index", "y", "x"))
    array.attrs = {"long_name": "Spectral index, mean of the pixel's class in its cell", "cell_px": CELL_PX}
    return array


def _read(run: KeptRun, block_info: Any = None) -> np.ndarray:
    """A chunk of the common grid, float32 ``[index, h, w]``."""
    _, (top, bottom), (left, right) = block_info[None]["array-location"]
    out = np.full((len(SPECTRAL_INDICES), bottom - top, right - left), np.nan, np.float32)
    try:
        store = RunStore.open(run.folder)
        zone = store.zone(run.epsg)
        first = max(top, run.row), max(left, run.col)
        last = min(bottom, run.row + zone.grid.height), min(right, run.col + zone.grid.width)
        if first[0] >= last[0] or first[1] >= last[1]:
            return out
        window = Window(first[0] - run.row, first[1] - run.col, last[0] - first[0], last[1] - first[1])
        codes, means = zone.read("landcover", window), zone.read("index_means", window)
        classes = store.legend.codes
    except SpexError as error:
        raise ReadError(f"{run.folder}: the indices cannot be read: {error}") from None
    number = np.full(256, -1, np.int16)
    number[list(classes)] = np.arange(len(classes))
    known = number[codes]
    y = (window.row + np.arange(window.height)) // CELL_PX - window.row // CELL_PX
    x = (window.col + np.arange(window.width)) // CELL_PX - window.col // CELL_PX
    values = means[:, known, y[:, None], x]
    there = (known >= 0) & (values != INDEX_NODATA)
    part = np.where(there, values / np.float32(INDEX_SCALE), np.float32(np.nan))
    out[:, first[0] - top : last[0] - top, first[1] - left : last[1] - left] = part
    return out
