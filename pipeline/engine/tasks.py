"""The two Ray tasks around the model: read a block's composite, and finish a block from its pieces.

Plain functions; the engine wraps them with ``ray.remote``. Errors leave here as picklable ones (see
:mod:`pipeline.errors`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from shapely.geometry.base import BaseGeometry

from pipeline.imagery.composite import read_composite
from pipeline.imagery.true_color import true_color
from pipeline.machine import pixel_loops
from pipeline.machine.addresses import without_secrets
from pipeline.machine.memory import ProcessMemory, process_memory
from pipeline.mapstore.index_cells import INDEX_NODATA, INDEX_SCALE, cell_means
from pipeline.mapstore.seen_image import seen_image
from pipeline.mapstore.store import RunStore
from pipeline.mapstore.unfamiliar_cells import cell_scores
from pipeline.planning.software import check_worker
from pipeline.predict.stitch import Piece, finalise, merge
from pipeline.records.dated_pixels import DatedPixels
from pipeline.records.grid import region_mask
from pipeline.records.plan import Block, ZoneGrid
from pipeline.records.scene import Scene
from pipeline.records.windows import slices
from pipeline.settings.run_file import CompositeConfig
from pipeline.sources.hrefs import AssetDoor
from spex_core.bands import BAND_INDEX
from spex_core.familiarity import Familiarity
from spex_core.indices import DIFFERENCE_BANDS, SPECTRAL_INDICES, spectral_index, with_either_near_infrared
from spex_core.legend import Legend

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ZoneContext:
    """What readers and finishers of one zone are given once, through the object store."""

    grid: ZoneGrid
    scenes: tuple[Scene, ...]
    composite: CompositeConfig
    area: BaseGeometry | None
    """What is mapped, lon/lat; None: the whole grid."""
    legend: Legend
    run_folder: Path
    """``.spex/<run id>``; on a cluster it must be on storage that every node sees."""
    door: AssetDoor | None = None
    """What readers may open; None: the scenes' own files and servers."""
    software: Mapping[str, str] = field(default_factory=dict)
    """The plan's versions of what can change a pixel; a process with others refuses to work."""
    familiarity: Familiarity | None = None
    """What the model was trained on, where the map says how unlike it is."""
    seen: bool = False
    """Whether the store keeps what a model sees when it is to speak about the map."""


@dataclass(frozen=True)
class ReadReport:
    """The small part of a read, for the driver."""

    empty: bool
    """Not one valid pixel: there is nothing to classify."""
    problems: tuple[str, ...]
    """Scenes that could not be read, and doubts about their values."""
    incomplete: bool
    """Some scene could not be read."""
    memory: ProcessMemory


@dataclass(frozen=True)
class ReadLayers:
    """The part of a read that goes past the model, over the block's own window."""

    indices: npt.NDArray[np.int16]
    """round(10000 * index), ``[I, h, w]`` in the order of ``SPECTRAL_INDICES``; -32768: no measurement."""
    valid_count: npt.NDArray[np.uint8]
    """Valid observations per pixel, ``[h, w]``."""
    truecolor: npt.NDArray[np.uint8] | None = None
    """Red, green and blue for a screen, ``[3, h, w]``; 0: not observed."""
    unfamiliar: npt.NDArray[np.uint8] | None = None
    """Scores of cells, see :mod:`pipeline.mapstore.unfamiliar_cells`."""
    seen: npt.NDArray[np.int16] | None = None
    """See :mod:`pipeline.mapstore.seen_image`."""


@dataclass(frozen=True)
class BlockReport:
    """The small part of a finished block, for the journal."""

    sha256: str
    valid_share: float
    """Share of its pixels that got a class, 0..1."""
    memory: ProcessMemory


def scaled_indices(reflectance: FloatArray) -> npt.NDArray[np.int16]:
    """All stored spectral indices of a composite.

    Args:
        reflectance: float32 ``[10, h, w]``; NaN where there is no measurement.

    Returns:
        int16 ``[I, h, w]``: round(10000 * index), clipped to the type; -32768 where the index is not known.
    """
    wide, narrow = (np.isnan(reflectance[BAND_INDEX[name]]) for name in ("B08", "B8A"))
    if (wide != narrow).any():  # source.bands may leave one out
        reflectance = with_either_near_infrared(reflectance)
    layers = np.empty((len(SPECTRAL_INDICES), *reflectance.shape[1:]), np.int16)
    limit = np.float32(np.iinfo(np.int16).max)
    computed: dict[tuple[str, ...], npt.NDArray[np.int16]] = {}
    for layer, name in zip(layers, SPECTRAL_INDICES, strict=True):
        formula = DIFFERENCE_BANDS.get(name, (name,))  # two indices have the same one
        if formula in computed:
            layer[...] = computed[formula]
            continue
        if name != "brightness" and pixel_loops.fits(reflectance, types=(np.float32,)):
            _scaled_ratio(name, reflectance, layer)
            computed[formula] = layer
            continue
        value = np.asarray(spectral_index(name, reflectance), np.float32)
        value *= np.float32(INDEX_SCALE)
        unknown = ~np.isfinite(value)
        np.rint(value, out=value)
        np.clip(value, -limit, limit, out=value)
        if unknown.any():
            value[unknown] = INDEX_NODATA
        layer[...] = value
        computed[formula] = layer
    return layers


def _scaled_ratio(name: str, reflectance: FloatArray, layer: npt.NDArray[np.int16]) -> None:
    """Writes one of the ratios of :func:`spex_core.indices.spectral_index`, scaled."""
    names = DIFFERENCE_BANDS.get(name, ("B11", "B08"))
    beside = (None, None) if name in DIFFERENCE_BANDS else ("B04", "B02")  # BSI: two bands against two
    bands = [
        None if band is None else reflectance[BAND_INDEX[band]]
        for pair in zip(names, beside, strict=True)
        for band in pair
    ]
    pixel_loops.loops.scaled_ratio(*bands, layer)


def read_block(context: ZoneContext, block: Block) -> tuple[FloatArray | DatedPixels, ReadLayers, ReadReport]:
    """Reads the composite of a block.

    Returns:
        Reflectance float32 ``[10, h, w]`` over ``block.read_window``, or its dates (for the actor), layers over
        ``block.window`` (for the finisher), and a report (for the driver). Indices, counts and
        unfamiliarity are those of the median of the dates.

    A scene that cannot be read does not raise: it is told in the report and the next-best scene fills in.

    Raises:
        WorkerMismatchError: This process has other versions than the plan.
    """
    check_worker(context.software)
    composite = read_composite(context.scenes, context.grid, block.read_window, context.composite, context.door)
    own = slices(block.window, block.read_window)
    reflectance = composite.reflectance[(slice(None), *own)]
    counts = np.ascontiguousarray(composite.valid_count[own])
    unfamiliar = None if context.familiarity is None else cell_scores(context.familiarity, reflectance)
    seen = seen_image(reflectance) if context.seen else None
    layers = ReadLayers(scaled_indices(reflectance), counts, true_color(reflectance), unfamiliar, seen)
    problems = tuple(map(without_secrets, composite.problems))
    report = ReadReport(not composite.valid_count.any(), problems, bool(composite.unread), process_memory())
    pixels = composite.reflectance if composite.dated is None else composite.dated
    return pixels, layers, report


def finish_block(context: ZoneContext, block: Block, layers: ReadLayers, *pieces: Piece | None) -> BlockReport:
    """Merges the pieces of a block in the order given, clips to the area and writes the block.

    Raises:
        StoreError: The block cannot be written.
        WorkerMismatchError: This process has other versions than the plan.
    """
    check_worker(context.software)
    window = block.window
    scores = merge(window, [piece for piece in pieces if piece is not None], classes=len(context.legend))
    if context.area is None:
        mask = np.ones((window.height, window.width), np.bool_)
    else:
        mask = region_mask(context.area, context.grid, window)
    final = finalise(scores, layers.valid_count, mask, context.legend)
    digest = RunStore.open(context.run_folder).write_block(
        context.grid.epsg,
        block,
        final,
        np.where(mask, layers.valid_count, np.uint8(0)),
        cell_means(final.landcover, layers.indices, context.legend.codes),
        None if layers.truecolor is None else np.where(mask, layers.truecolor, np.uint8(0)),
        layers.unfamiliar,
        layers.seen,
    )
    return BlockReport(digest, float(np.mean(final.landcover != context.legend.nodata)), process_memory())
