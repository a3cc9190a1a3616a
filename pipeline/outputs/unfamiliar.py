"""The file that says how unlike anything the model was trained on a pixel is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.mapstore.unfamiliar_cells import pixels_of
from pipeline.mapstore.zone_store import ZoneStore
from pipeline.outputs.cog import write_percent_cog
from pipeline.records.plan import Block
from spex_core.familiarity import UNKNOWN
from spex_core.legend import Legend


def write_unfamiliar_cog(zone: ZoneStore, path: Path, legend: Legend, *, tags: Mapping[str, str] | None = None) -> Path:
    """Writes the scores of a zone on its grid: uint8 percent, nodata 255 where there is no map.

    Raises:
        CogError: Not writable or not a valid COG.
        StoreError: The store is damaged, or has no such layer.
    """

    def read(block: Block) -> np.ndarray:
        pixels = pixels_of(zone.read("unfamiliar", block.window), block.window)
        return np.where(zone.read("landcover", block.window) == legend.nodata, np.uint8(UNKNOWN), pixels)

    return write_percent_cog(zone, path, read, "unlike anything the model was trained on: 98 and more", tags=tags)
