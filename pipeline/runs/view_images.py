"""Images of sub-regions for a model that is to speak about them: from the run's store, or from the scenes again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.explain.views import View
from pipeline.imagery.composite import read_composite
from pipeline.mapstore.layers import SEEN
from pipeline.mapstore.seen_image import SEEN_NODATA, reflectance_of, seen_image
from pipeline.mapstore.store import RunStore
from pipeline.records.grid import SEEN_PX, grid_window
from pipeline.records.plan import Window
from pipeline.records.windows import intersection
from pipeline.sources.catalog import asset_door
from spex_core.bands import SENTINEL2_BANDS

if TYPE_CHECKING:
    from pipeline.planning.prepare import Prepared

_PART_PX = 1024
"""Side of what is read at a time, about."""


class ViewImages:
    """Reads the images of one run.

    Args:
        prepared: What was decided for the run.
        store: Its finished blocks.
    """

    def __init__(self, prepared: Prepared, store: RunStore) -> None:
        self._prepared, self._store = prepared, store

    def __call__(self, view: View) -> npt.NDArray[np.float32]:
        """The composite of a view by block means, float32 ``[10, h, w]``; NaN where nothing was measured.

        Raises:
            ReadError: The scenes cannot be read.
            StoreError: The store cannot be read.
        """
        side, factor = view.window.height // view.factor, view.factor
        image = np.full((len(SENTINEL2_BANDS), side, side), np.nan, np.float32)
        step = max(_PART_PX // factor, 1)
        for row in range(0, side, step):
            for col in range(0, side, step):
                height, width = min(step, side - row), min(step, side - col)
                part = Window(
                    view.window.row + row * factor, view.window.col + col * factor, height * factor, width * factor
                )
                seen = self._seen(view.epsg, part)
                image[:, row : row + height, col : col + width] = reflectance_of(seen, factor // SEEN_PX)
        return image

    def _seen(self, epsg: int, window: Window) -> npt.NDArray[np.int16]:
        """Block means of a window, which may reach beyond the grid."""
        zone = self._store.zone(epsg)
        shape = len(SENTINEL2_BANDS), window.height // SEEN_PX, window.width // SEEN_PX
        seen = np.full(shape, SEEN_NODATA, np.int16)
        if (part := intersection(window, grid_window(zone.grid))) is not None:
            found = self._read(epsg, part)
            row, col = (part.row - window.row) // SEEN_PX, (part.col - window.col) // SEEN_PX
            seen[:, row : row + found.shape[1], col : col + found.shape[2]] = found
        return seen

    def _read(self, epsg: int, window: Window) -> npt.NDArray[np.int16]:
        kept = self._store.zone(epsg)
        if kept.has(SEEN):
            return kept.read(SEEN, window)
        prepared = self._prepared
        zone = next(zone for zone in prepared.plan.zones if zone.grid.epsg == epsg)
        wanted = set(zone.scene_ids)
        scenes = [scene for scene in prepared.plan.scenes if scene.id in wanted]
        door = asset_door(prepared.config.source)
        return seen_image(read_composite(scenes, zone.grid, window, prepared.config.composite, door).reflectance)
