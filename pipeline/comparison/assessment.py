"""How well a map agrees with a reference map: confusion matrix, overall accuracy, user's and producer's accuracy, IoU.

A wall-to-wall comparison with a complete reference (the simulated truth); for a sample of points the estimates of
Olofsson et al. 2014 would be needed. Streamed by blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from pipeline.engine.tasks import ZoneContext
from pipeline.errors import ReadError
from pipeline.imagery.composite import read_composite
from pipeline.mapstore.store import RunStore
from pipeline.records.grid import transform
from pipeline.records.plan import Block, Window, ZoneGrid
from pipeline.records.windows import slices
from spex_core.legend import Legend
from spex_core.priors import index_scores

Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Assessment:
    """Agreement of one map with a reference."""

    legend: Legend
    confusion: npt.NDArray[np.int64]
    """Pixels, ``[K, K]``: row = class in the reference, column = class in the map."""
    outside: npt.NDArray[np.int64] | None = None
    """Pixels of each reference class, ``[K]``, that the map gives to a class which the legend lacks: wrong, too."""

    @property
    def reference(self) -> npt.NDArray[np.int64]:
        """Pixels of each class in the reference, ``[K]``."""
        found: npt.NDArray[np.int64] = self.confusion.sum(axis=1)
        return found if self.outside is None else found + self.outside

    @property
    def overall(self) -> float:
        """Overall accuracy, 0..1; NaN without pixels."""
        return _ratio(np.trace(self.confusion), self.reference.sum())

    @property
    def miou(self) -> float:
        """Mean intersection over union of the classes that occur in the reference, 0..1."""
        return self._mean(self.iou)

    @property
    def mean_f1(self) -> float:
        """Mean F1 of the classes that occur in the reference, 0..1."""
        return self._mean(self.f1)

    @property
    def mean_recall(self) -> float:
        """Mean recall of the classes that occur in the reference ("average accuracy"), 0..1."""
        return self._mean(self.producers)

    @property
    def iou(self) -> npt.NDArray[np.float64]:
        """Intersection over union per class, ``[K]``; NaN where a class is in neither map."""
        hits = np.diagonal(self.confusion)
        return _ratios(hits, self.confusion.sum(axis=0) + self.reference - hits)

    @property
    def f1(self) -> npt.NDArray[np.float64]:
        """Harmonic mean of precision and recall per class, ``[K]``; NaN where a class is in neither map."""
        return _ratios(2 * np.diagonal(self.confusion), self.confusion.sum(axis=0) + self.reference)

    @property
    def users(self) -> npt.NDArray[np.float64]:
        """User's accuracy (precision) per class, ``[K]``; NaN where the map lacks the class."""
        return _ratios(np.diagonal(self.confusion), self.confusion.sum(axis=0))

    @property
    def producers(self) -> npt.NDArray[np.float64]:
        """Producer's accuracy (recall) per class, ``[K]``; NaN where the reference lacks the class."""
        return _ratios(np.diagonal(self.confusion), self.reference)

    def _mean(self, values: npt.NDArray[np.float64]) -> float:
        present = self.reference > 0
        return float(np.mean(values[present])) if present.any() else float("nan")


def _ratio(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else float("nan")


def _ratios(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    shares: npt.NDArray[np.float64] = np.full(len(part), np.nan)
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares


def confusion_matrix(reference: Codes, found: Codes, legend: Legend) -> npt.NDArray[np.int64]:
    """Counts pairs of classes; pixels without a legend code on either side do not count.

    Args:
        reference: Legend codes, uint8 ``[h, w]``.
        found: Legend codes, uint8 ``[h, w]``.
        legend: K classes.

    Returns:
        int64 ``[K, K]``: row = reference, column = found.
    """
    channel = np.full(256, -1, np.int64)
    channel[list(legend.codes)] = np.arange(len(legend))
    rows, columns = channel[reference], channel[found]
    known = (rows >= 0) & (columns >= 0)
    size = len(legend)
    return np.bincount(rows[known] * size + columns[known], minlength=size * size).reshape(size, size)


def read_reference(paths: Sequence[Path], grid: ZoneGrid, window: Window) -> Codes:
    """Codes of reference maps on a window of the grid, by nearest neighbour; a later file fills what earlier lack.

    Returns:
        uint8 ``[h, w]``; 0 where no file has a code.

    Raises:
        ReadError: A file cannot be read.
    """
    codes = np.zeros((window.height, window.width), np.uint8)
    for path in paths:
        try:
            with (
                rasterio.open(path) as source,
                WarpedVRT(
                    source,
                    crs=f"EPSG:{grid.epsg}",
                    transform=transform(grid, window),
                    width=window.width,
                    height=window.height,
                    resampling=Resampling.nearest,
                    nodata=0,
                    src_nodata=0,
                ) as view,
            ):
                found = view.read(1)
        except rasterio.errors.RasterioError as error:
            raise ReadError(f"reference map {path} cannot be read: {error}") from None
        codes = np.where(codes == 0, found, codes)
    return codes


def assess(
    store: RunStore, contexts: Sequence[ZoneContext], legend: Legend, reference: Sequence[Path]
) -> tuple[Assessment, Assessment]:
    """Compares a finished run, and the index rules on the same composite and the same pixels, with reference maps.

    Returns:
        Assessment of the map, assessment of the index rules.

    Raises:
        ReadError: A reference map cannot be read.
        StoreError: The store is damaged.
    """
    of_map = np.zeros((len(legend), len(legend)), np.int64)
    of_rules = np.zeros_like(of_map)
    for context, block in _blocks(store, contexts):
        found = store.zone(context.grid.epsg).read("landcover", block.window)
        truth = read_reference(reference, context.grid, block.window)
        of_map += confusion_matrix(truth, found, legend)
        rules = np.where(found == legend.nodata, found, _index_map(context, block, legend))
        of_rules += confusion_matrix(truth, rules, legend)
    return Assessment(legend, of_map), Assessment(legend, of_rules)


def _blocks(store: RunStore, contexts: Sequence[ZoneContext]) -> Iterator[tuple[ZoneContext, Block]]:
    for zone, context in zip(store.plan.zones, contexts, strict=True):
        for block in zone.blocks:
            yield context, block


def _index_map(context: ZoneContext, block: Block, legend: Legend) -> Codes:
    # The window that the run read, so that the composite is the run's own.
    composite = read_composite(context.scenes, context.grid, block.read_window, context.composite, context.door)
    own = composite.reflectance[(slice(None), *slices(block.window, block.read_window))]
    winner = index_scores(np.nan_to_num(own), legend).argmax(axis=0)
    codes: Codes = np.asarray(legend.codes, np.uint8)[winner]
    return codes
