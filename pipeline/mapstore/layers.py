"""The layers of a zone in the store: their types and sizes, and the Zarr arrays that hold them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zarr.codecs import ZstdCodec

from pipeline.mapstore import unfamiliar_cells
from pipeline.mapstore.index_cells import CELL_PX, INDEX_NODATA
from pipeline.mapstore.seen_image import SEEN_NODATA
from pipeline.predict.stitch import CONFIDENCE_NODATA
from pipeline.records.grid import SEEN_PX
from pipeline.records.plan import Window, ZonePlan
from spex_core.bands import SENTINEL2_BANDS
from spex_core.familiarity import UNKNOWN
from spex_core.indices import SPECTRAL_INDICES
from spex_core.legend import Legend

LayerName = Literal[
    "scores", "landcover", "confidence", "valid_count", "index_means", "unfamiliar", "truecolor", "seen"
]
LAYERS: tuple[LayerName, ...] = ("scores", "landcover", "confidence", "valid_count", "index_means")
"""Arrays that make the map, in the order of the block's sha256."""
UNFAMILIAR: LayerName = "unfamiliar"
"""Of runs whose checkpoint says what it was trained on; where it is, it makes the map and is last in the sha256."""
PICTURE: LayerName = "truecolor"
"""The image below the map, beside them: stores of earlier versions lack it, and no number depends on it."""
SEEN: LayerName = "seen"
"""The composite, coarser, of runs that were asked for words when they began; as little part of the map."""
METADATA = "zarr.json"
_ZSTD_LEVEL = 1
"""Half the time of level 3 for one percent more bytes."""


_CELLS: Mapping[LayerName, int] = {"index_means": CELL_PX, UNFAMILIAR: unfamiliar_cells.CELL_PX, SEEN: SEEN_PX}


@dataclass(frozen=True)
class _Layer:
    dtype: str
    leading: tuple[int, ...]
    """Sizes of the axes before row and column."""
    dimensions: tuple[str, ...]
    fill: int


def cell_px(layer: LayerName) -> int:
    """Pixels of the grid per element of a layer, along each axis."""
    return _CELLS.get(layer, 1)


def selection(layer: LayerName, window: Window) -> tuple[Any, ...]:
    """The elements of a layer that a window of the grid touches."""
    cell = cell_px(layer)
    rows = slice(window.row // cell, -(-(window.row + window.height) // cell))
    return (..., rows, slice(window.col // cell, -(-(window.col + window.width) // cell)))


class ChunkFiles:
    """Names of the files that hold the blocks of a layer; made once, because a run has half a million of them."""

    def __init__(self, folder: Path, epsg: int, layer: LayerName, array: Any) -> None:
        """Args: the Zarr store, the zone, and the layer with its Zarr array."""
        self._size = array.chunks[-1] * cell_px(layer)
        self._folder = str(folder.joinpath(str(epsg), layer, "c", *("0",) * (array.ndim - 2)))

    def path(self, window: Window) -> str:
        """The file of the block with this window."""
        return f"{self._folder}/{window.row // self._size}/{window.col // self._size}"


def create_zone(
    root: Any, zone: ZonePlan, block_px: int, legend: Legend, *, unfamiliar: bool = False, seen: bool = False
) -> None:
    """Makes the arrays of a zone, one chunk per block, in a Zarr group named by its EPSG code."""
    classes, grid = len(legend), zone.grid
    layers: dict[LayerName, _Layer] = {
        "scores": _Layer("uint8", (classes,), ("class", "y", "x"), 0),
        "landcover": _Layer("uint8", (), ("y", "x"), legend.nodata),
        "confidence": _Layer("uint8", (), ("y", "x"), CONFIDENCE_NODATA),
        "valid_count": _Layer("uint8", (), ("y", "x"), 0),
        "index_means": _Layer(
            "int16", (len(SPECTRAL_INDICES), classes), ("index", "class", "cell_y", "cell_x"), INDEX_NODATA
        ),
    }
    if unfamiliar:
        layers[UNFAMILIAR] = _Layer("uint8", (), ("cell_y", "cell_x"), UNKNOWN)
    layers[PICTURE] = _Layer("uint8", (3,), ("band", "y", "x"), 0)
    if seen:
        layers[SEEN] = _Layer("int16", (len(SENTINEL2_BANDS),), ("band", "cell_y", "cell_x"), SEEN_NODATA)
    group = root.create_group(
        str(grid.epsg),
        attributes={"crs": f"EPSG:{grid.epsg}", "left": grid.left, "top": grid.top, "resolution_m": grid.resolution_m},
    )
    for name, layer in layers.items():
        cell = cell_px(name)
        group.create_array(
            name,
            shape=(*layer.leading, -(-grid.height // cell), -(-grid.width // cell)),
            chunks=(*layer.leading, block_px // cell, block_px // cell),
            dtype=layer.dtype,
            fill_value=layer.fill,
            compressors=ZstdCodec(level=_ZSTD_LEVEL, checksum=True),
            dimension_names=layer.dimensions,
        )


def metadata_digests(folder: Path) -> dict[str, str]:
    """sha256 (hex) of the metadata of each zone and layer, by path inside the store.

    Raises:
        OSError: A file cannot be read.
    """
    found = sorted(path for path in folder.rglob(METADATA) if path.parent != folder)
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in found}


def check_metadata(folder: Path, name: str, digests: Mapping[str, str]) -> None:
    """Refuses metadata that is not, byte by byte, what the run wrote.

    Another fill value, type or name of chunks would be read without an error, and would be a hole in the map.

    Args:
        folder: Of the Zarr store.
        name: The metadata's path inside it.
        digests: What :func:`metadata_digests` gave when the store was made.

    Raises:
        ValueError: It is something else.
        OSError: It cannot be read.
    """
    if digests.get(name) != _sha256(folder / name):
        raise ValueError(f"{name} is not what the run wrote")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
