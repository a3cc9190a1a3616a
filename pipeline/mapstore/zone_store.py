"""One zone of the run's store, read by window."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from pipeline.errors import StoreError
from pipeline.mapstore.layers import LAYERS, METADATA, UNFAMILIAR, ChunkFiles, LayerName, check_metadata, selection
from pipeline.records.grid import grid_window
from pipeline.records.plan import Block, Window, ZoneGrid, ZonePlan
from pipeline.records.windows import intersection

UNREADABLE = Exception
"""What Zarr raises over metadata that somebody else has written: anything, an overflow or a recursion too."""


class ZoneStore:
    """The finished layers of one zone, read by window."""

    def __init__(self, folder: Path, plan: ZonePlan, digests: Mapping[str, str]) -> None:
        """Use :meth:`RunStore.zone`.

        Raises:
            StoreError: The zone's group is not there, or its metadata not what the run wrote.
        """
        self.plan = plan
        self._folder, self._digests = folder, digests
        try:
            check_metadata(folder, f"{plan.grid.epsg}/{METADATA}", digests)
            self._group: Any = zarr.open_group(folder, path=str(plan.grid.epsg), mode="r+", zarr_format=3)
        except UNREADABLE as error:
            raise StoreError(
                f"{folder} has no readable zone {plan.grid.epsg}: {error}; delete the run folder to compute it again"
            ) from error
        self._arrays: dict[str, Any] = {}
        self._chunks: dict[str, ChunkFiles] = {}

    @property
    def grid(self) -> ZoneGrid:
        """The zone's pixel grid."""
        return self.plan.grid

    def has(self, layer: LayerName) -> bool:
        """Whether the run keeps this layer: those of earlier versions have no picture."""
        return f"{self.grid.epsg}/{layer}/{METADATA}" in self._digests

    @property
    def layers(self) -> tuple[LayerName, ...]:
        """Those that make the map."""
        return (*LAYERS, UNFAMILIAR) if self.has(UNFAMILIAR) else LAYERS

    def array(self, layer: LayerName) -> Any:
        """The Zarr array of a layer.

        Raises:
            StoreError: It is not there, or not what the plan made.
        """
        if layer not in self._arrays:
            try:
                check_metadata(self._folder, f"{self.grid.epsg}/{layer}/{METADATA}", self._digests)
                array = self._group[layer]
            except UNREADABLE as error:
                raise StoreError(
                    f"layer {layer!r} of EPSG:{self.grid.epsg} in {self._folder} cannot be opened: {error}; "
                    "delete the run folder to compute it again"
                ) from error
            self._arrays[layer] = array
            self._chunks[layer] = ChunkFiles(self._folder, self.grid.epsg, layer, array)
        return self._arrays[layer]

    def chunk(self, layer: LayerName, block: Block) -> str:
        """The file that holds a block of a layer; it need not be there."""
        self.array(layer)
        return self._chunks[layer].path(block.window)

    def read(self, layer: LayerName, window: Window | None = None) -> npt.NDArray[Any]:
        """Pixels of a layer; fill values (see ``fill_value``) where no block was finished.

        Args:
            layer: One of :data:`LAYERS`.
            window: Inside the grid; default: the whole grid.

        Returns:
            ``[h, w]``, ``scores`` ``[K, h, w]``, ``index_means`` ``[I, K, rows, columns]`` of the cells that the
            window touches.

        Raises:
            StoreError: Unknown layer, window outside the grid, or a damaged chunk.
        """
        window = window or grid_window(self.grid)
        if intersection(window, grid_window(self.grid)) != window:
            raise StoreError(f"{window} lies outside the grid of EPSG:{self.grid.epsg} ({self.grid})")
        array = self.array(layer)
        try:
            return np.asarray(array[selection(layer, window)])
        except UNREADABLE as error:
            raise StoreError(f"layer {layer!r} of EPSG:{self.grid.epsg}, {window}: cannot be read: {error}") from error
