"""What the map says of one image of a sub-region: the facts of questions, which answers are held to.

Amounts and indices are of every pixel. Objects, places and borders are of every n-th where an image shows more than
:data:`MEASURED_PX` a side, so that memory does not grow with the region.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from shapely.geometry.base import BaseGeometry

from pipeline.explain.statistics import LayerReader, ZoneLayers
from pipeline.explain.views import WHOLE_PX, View, region_codes
from pipeline.mapstore.index_cells import INDEX_SCALE, class_sums
from pipeline.records.grid import grid_window
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.windows import intersection, slices
from spex_core.indices import SPECTRAL_INDICES
from spex_core.label_facts import EVIDENCE_INDICES, ClassFacts, class_facts
from spex_core.legend import Legend

MEASURED_PX = 2 * WHOLE_PX
"""Side up to which every pixel of an image is looked at for objects."""
_STRIP_PX = 512


@dataclass(frozen=True)
class MeasuredView:
    """The map under one image."""

    codes: npt.NDArray[np.uint8]
    """Every n-th pixel, ``[h, w]``; nodata outside the region."""
    counts: npt.NDArray[np.int64]
    """Pixels of each code, ``[256]``."""
    indices: dict[int, dict[str, float]]
    """Class code → index → its mean over the class's pixels."""

    def share(self, code: int, legend: Legend) -> float:
        """Share of a class in what is mapped here."""
        return int(self.counts[code]) / max(self.mapped(legend), 1)

    def mapped(self, legend: Legend) -> int:
        """Pixels that have a class."""
        return int(self.counts[list(legend.codes)].sum())

    def facts(self, code: int, legend: Legend) -> ClassFacts:
        """What can be said of a class."""
        others = {entry.noun: self.codes == entry.code for entry in legend if entry.code != code}
        found = class_facts(self.codes == code, None, others, self.codes != legend.nodata)
        return dataclasses.replace(found, share=self.share(code, legend), indices=self.indices.get(code, {}))


def measure_view(view: View, geometry: BaseGeometry, zone: ZoneLayers, legend: Legend) -> MeasuredView:
    """Measures the map under an image, strip by strip.

    Args:
        view: The image.
        geometry: The region's part in this zone, lon/lat.
        zone: Its zone.
        legend: Classes of the map.

    Raises:
        StoreError: The map cannot be read.
    """
    window = view.window
    step = math.ceil(window.height / MEASURED_PX)
    strip = max(_STRIP_PX // step, 1) * step
    counts = np.zeros(256, np.int64)
    sums, pixels = (np.zeros((len(SPECTRAL_INDICES), len(legend)), np.int64) for _ in range(2))
    thinned = []
    for row in range(0, window.height, strip):
        part = Window(window.row + row, window.col, min(strip, window.height - row), window.width)
        codes = region_codes(geometry, zone.reader, zone.grid, part, legend)
        counts += np.bincount(codes.ravel(), minlength=256)
        thinned.append(codes[::step, ::step])
        for total, found in zip((sums, pixels), _index_sums(codes, part, zone.reader, zone.grid, legend), strict=True):
            total += found
    indices = {
        code: {
            name: int(sums[i, k]) / int(pixels[i, k]) / INDEX_SCALE
            for i, name in enumerate(SPECTRAL_INDICES)
            if name in EVIDENCE_INDICES and pixels[i, k]
        }
        for k, code in enumerate(legend.codes)
    }
    return MeasuredView(np.concatenate(thinned), counts, indices)


def _index_sums(
    codes: npt.NDArray[np.uint8], window: Window, reader: LayerReader, grid: ZoneGrid, legend: Legend
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Sums of the indices of each class, and how many pixels went into them: int64 ``[I, K]``."""
    part = intersection(window, grid_window(grid))
    if part is None:
        nothing = np.zeros((len(SPECTRAL_INDICES), len(legend)), np.int64)
        return nothing, nothing
    own = np.ascontiguousarray(codes[slices(part, window)])
    return class_sums(own, own != legend.nodata, part, reader.read("index_means", part), legend.codes)
