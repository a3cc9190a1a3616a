"""Labels of a land-cover product where there is no survey: pixels of ESA WorldCover (or its successor) in the region.

A product is a map with errors of its own, most of them at the edges of classes. So pixels are taken whose eight
neighbours are of the same class, a few of each class in windows spread over the region.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.adaptation.own_legend import similar_code
from pipeline.adaptation.samples import LabelledPixel, domain_windows
from pipeline.machine.progress import Progress
from pipeline.planning.prepare import Prepared
from pipeline.records.grid import region_mask
from pipeline.records.plan import Window
from pipeline.settings.run_file import SourceConfig
from pipeline.spie.config import LabelConfig
from pipeline.spie.labels import LabelSource, find_labels
from spex_core.legend import Legend

LABEL_WINDOWS = 64
"""Most windows of each zone whose labels are read."""
PER_WINDOW = 8
"""Pixels of one class in a window."""
UNIFORM_PX = 3
"""Side of the square of one class around a pixel that is taken."""


def label_collection(source: SourceConfig, url: str | None = None) -> LabelConfig:
    """Where the land-cover product of a run's provider is searched.

    Args:
        source: Of the run. A catalog of one's own is searched for ``esa-worldcover``; without one the public catalog of
            the Copernicus Data Space has its product, and the Planetary Computer WorldCover for all others.
        url: Another catalog.
    """
    return LabelConfig(
        provider="cdse" if source.provider == "cdse" else "planetary-computer",
        url=url or source.url,
        allowed_schemes=source.allowed_schemes,
        allowed_roots=source.allowed_roots,
    )


def taken_codes(shipped: Legend, surveyed: Sequence[str]) -> dict[int, str]:
    """Code of the product → class that its pixels teach, beside a survey.

    A class of the survey that is called like one of the product gets its pixels too. A class of the product that is
    like one of the survey by any other name (trees beside spruce forest) is not taken: who surveyed knows better.
    """
    names = {name.casefold(): name for name in surveyed}
    like = {similar_code(name) for name in surveyed}
    taken = {}
    for entry in shipped:
        own = names.get(entry.name.casefold()) or names.get(entry.noun.casefold())
        if own is not None or entry.code not in like:
            taken[entry.code] = own or entry.name
    return taken


def map_labels(
    prepared: Prepared, labels: LabelSource, positions: Mapping[int, int], first: int, progress: Progress
) -> list[LabelledPixel]:
    """Pixels of a product, spread over the region.

    Args:
        prepared: The run.
        labels: Of the product, in codes of the shipped legend.
        positions: Code → position in the legend that is learnt; others are not taken.
        first: Number of the first window as a feature (see :class:`LabelledPixel`).
        progress: Where progress is told.

    Raises:
        ReadError: A label file cannot be read.
    """
    tile_px = prepared.config.tiling.tile_px
    jobs: list[tuple[int, Window]] = []
    for number, zone in enumerate(prepared.plan.zones):
        area = prepared.zone_areas[zone.grid.epsg]
        jobs += [(number, window) for window in domain_windows(zone.grid, area, tile_px, LABEL_WINDOWS)]
    found: list[LabelledPixel] = []
    progress.start("reading labels", len(jobs), "windows")
    for order, (number, window) in enumerate(jobs):
        grid = prepared.plan.zones[number].grid
        codes, _ = labels.read(grid, window)
        inside = region_mask(prepared.zone_areas[grid.epsg], grid, window)
        inside[max(grid.height - window.row, 0) :], inside[:, max(grid.width - window.col, 0) :] = False, False
        rng = np.random.default_rng([grid.epsg, window.row, window.col])
        for code, label in positions.items():
            at = np.argwhere(inside & _within(codes == code))
            if len(at) > PER_WINDOW:
                at = at[np.sort(rng.choice(len(at), PER_WINDOW, replace=False))]
            for row, col in at + np.array([window.row, window.col]):
                x, y = grid.left + (col + 0.5) * grid.resolution_m, grid.top - (row + 0.5) * grid.resolution_m
                found.append(LabelledPixel(number, int(row), int(col), label, first + order, float(x), float(y)))
        progress.advance()
    return found


def _within(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Pixels whose neighbours are set too; at the edge of a window those beyond count as they do."""
    return np.asarray(ndimage.binary_erosion(mask, np.ones((UNIFORM_PX, UNIFORM_PX)), border_value=1))


def joined(
    surveyed: Sequence[LabelledPixel], mapped: Sequence[LabelledPixel], left_out: Counter[str]
) -> list[LabelledPixel]:
    """All pixels; where both speak of one, people are believed."""
    taken = {(pixel.zone, pixel.row, pixel.col) for pixel in surveyed}
    free = [pixel for pixel in mapped if (pixel.zone, pixel.row, pixel.col) not in taken]
    if len(free) < len(mapped):
        left_out["of the land-cover product where the survey speaks"] += len(mapped) - len(free)
    return [*surveyed, *free]


def found_labels(prepared: Prepared, url: str | None) -> LabelSource:
    """The product's files over the region.

    Raises:
        LabelError: Nothing usable was found; the message says what was searched.
        CatalogError: The catalog does not answer.
    """
    return find_labels(label_collection(prepared.config.source, url), Legend.from_yaml(), prepared.region)
