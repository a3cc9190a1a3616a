"""Scenes → one harmonised image of a window: surface reflectance, masked by the scene classification, composited.

With ``method: fuse`` the dates that a median is made of are kept beside it.

Per pixel, scenes are taken from the least cloudy on. A pixel considers the first ``max_observations`` acquisitions
that saw it, and goes on to the next clear one only if all of these are cloudy there. The rule speaks of pixels, so the
result does not depend on how the map is cut into windows. Memory does not grow with the number of scenes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.imagery.candidates import Candidate, candidates_for
from pipeline.imagery.observations import Observations, choose_observations
from pipeline.imagery.open_pixels import extent_of, masks_where_open
from pipeline.imagery.outliers import outlying
from pipeline.imagery.window_reader import WindowReader
from pipeline.machine import pixel_loops
from pipeline.planning.lattice import union_window
from pipeline.records.dated_pixels import DatedPixels
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.scene import Scene
from pipeline.records.windows import slices
from pipeline.settings.run_file import CompositeConfig
from pipeline.sources.hrefs import AssetDoor
from spex_core.bands import SENTINEL2_BANDS
from spex_core.cloud_classes import cloud_bands

IMAGES_PER_LOAD = 10
"""Bands of scenes that are held at once, besides the values kept for the median: half of those of two dates."""
_Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Composite:
    """One image of a window."""

    reflectance: _Float
    """float32 [10, h, w], band order of ``SENTINEL2_BANDS``; NaN in all bands where nothing was observed, and
    everywhere in bands that the scenes were not asked for (``source.bands``)."""
    valid_count: npt.NDArray[np.uint8]
    """uint8 [h, w]: acquisitions that went into the pixel (for ``least-cloudy-first``: 0 or 1)."""
    problems: tuple[str, ...]
    """One line per scene that could not be read here, or whose values contradict its radiometry."""
    unread: tuple[str, ...] = ()
    """Ids of scenes that could not be read here: their pixels are missing, or another scene's are in their place."""
    used: tuple[str, ...] = ()
    """Ids of scenes that gave at least one pixel, sorted."""
    dated: DatedPixels | None = None
    """The dates one by one; only with ``method: fuse``, and None where one date alone is in the window."""


def read_composite(
    scenes: Sequence[Scene],
    grid: ZoneGrid,
    window: Window,
    composite: CompositeConfig,
    door: AssetDoor | None = None,
) -> Composite:
    """Reads and composites one window.

    A scene with a file that cannot be read (after retries) is left out of this window and reported; the next-best
    scene takes its place.

    Args:
        scenes: Candidates of the whole zone, in any order; the result does not depend on it.
        grid: Output grid.
        window: Pixels of that grid's lattice; may lie outside the grid.
        composite: Method, mask and limits.
        door: What may be opened; None: each file's own server.
    """
    reader = WindowReader(grid, window, composite, door)
    candidates = candidates_for(scenes, grid, window)
    dated: DatedPixels | None = None
    if composite.method == "least-cloudy-first":
        reflectance, count = _least_cloudy_first(reader, candidates)
    else:
        reflectance, count, dated = _median(reader, candidates, composite)
    return Composite(reflectance, count, reader.report(), reader.unread, tuple(sorted(reader.used)), dated)


def _median(
    reader: WindowReader, candidates: Sequence[Candidate], composite: CompositeConfig
) -> tuple[_Float, npt.NDArray[np.uint8], DatedPixels | None]:
    while True:
        observations = choose_observations(reader, candidates, composite.max_observations)
        result = _median_of(reader, observations, composite.reject_outliers, fuse=composite.method == "fuse")
        if result is not None:
            reader.used = {use.scene.id for use in observations.uses}
            return result
        # A file failed half-way: its scene is out, and every pixel it held is decided again.


def _median_of(
    reader: WindowReader, observations: Observations, reject_outliers: bool, fuse: bool
) -> tuple[_Float, npt.NDArray[np.uint8], DatedPixels | None] | None:
    reflectance = np.full((len(SENTINEL2_BANDS), *reader.shape), np.nan, np.float32)
    count = observations.layers.count()
    if not observations.uses:
        return reflectance, count, None
    numbers = dates_of(observations) if fuse else np.zeros(0, np.uint16)
    several = len(np.unique(numbers[numbers > 0])) > 1  # one date is its own median
    layers = np.full((len(numbers), *reflectance.shape), np.nan, np.float32) if several else None
    bands = _bands(observations.uses[0].scene)
    rejected: npt.NDArray[np.bool_] | None = None
    if reject_outliers and len(observations.layers) > 1:
        blue, _, red, infrared, *_ = cloud_bands([name for _, name in bands])
        telling = [(i, name) for i, name in enumerate((blue, red, infrared)) if name is not None]
        dates: list[_Float] = []
        for _, stack in _stacks(reader, observations, telling):
            if stack is None:
                return None
            dates.append(stack.copy())
        rejected = outlying(*dates)
        del dates
    for position, stack in _stacks(reader, observations, bands):
        if stack is None:
            return None
        if rejected is not None:
            stack[rejected] = np.nan
        if layers is not None:
            layers[:, position] = stack
            numbers[np.isnan(stack)] = 0
        reflectance[position], observed = nan_median(stack)
        # Where a file has nodata although the classification does not say so, the scarcest band counts.
        np.minimum(count, observed, out=count)
    reflectance[:, count == 0] = np.nan
    return reflectance, count, None if layers is None else DatedPixels(reflectance, layers, numbers)


def dates_of(observations: Observations) -> npt.NDArray[np.uint16]:
    """The date of every observation: uint16 [layer, h, w], 1, 2, ... in order of time, 0 where there is none.

    A pixel that had to look beyond the passes that it considers is no part of its date: days on which no more than a
    few such pixels are wanted would each cost a pass of the model.
    """
    passes = sorted({use.acquisition for use in observations.uses})
    meaning = np.zeros(len(observations.uses) + 1, np.uint16)
    for use in observations.uses:
        meaning[use.number] = passes.index(use.acquisition) + 1
    numbers = observations.layers.translated(meaning)
    numbers[:, observations.late] = 0
    return numbers


def _stacks(
    reader: WindowReader, observations: Observations, bands: Sequence[tuple[int, str]]
) -> Iterator[tuple[int, _Float | None]]:
    """Position and dates of each band, float32 [layer, h, w], overwritten by the next; None: a file failed, the end."""
    # Uses of like extent are read together, so that a spot filled from many scenes is not read as whole windows.
    uses = sorted(observations.uses, key=lambda use: use.extent.height * use.extent.width, reverse=True)
    stack = np.empty((len(observations.layers), *reader.shape), np.float32)
    bands_per_load = max(1, IMAGES_PER_LOAD // len(uses))
    for first in range(0, len(bands), bands_per_load):
        positions, names = zip(*bands[first : first + bands_per_load], strict=True)
        for begin in range(0, len(uses), IMAGES_PER_LOAD):
            group = uses[begin : begin + IMAGES_PER_LOAD]
            extent = union_window([use.extent for use in group])
            values = reader.bands([use.scene for use in group], names, extent)
            if values is None:
                yield positions[0], None
                return
            for channel, position in enumerate(positions):
                if begin == 0:  # of few scenes several bands are loaded, of many one
                    stack.fill(np.nan)
                observations.place(group, values[:, channel], extent, stack)
                if begin + len(group) == len(uses):
                    yield position, stack
            del values  # before the next are read


def _bands(scene: Scene) -> list[tuple[int, str]]:
    """Position in ``SENTINEL2_BANDS`` and name of the bands that are read: the same for all scenes of a run."""
    return [(index, name) for index, name in enumerate(SENTINEL2_BANDS) if name in scene.assets]


def nan_median(stack: _Float) -> tuple[_Float, npt.NDArray[np.uint8]]:
    """Median over the first axis without NaN, and how many values there were.

    Args:
        stack: float32 [n, h, w], finite or NaN; may be sorted in place.

    Returns:
        float32 [h, w] (NaN where no value), uint8 [h, w].
    """
    if len(stack) <= 2:  # nothing to sort: most maps of a month have no more clear dates
        first, last = stack[0], stack[-1]
        if pixel_loops.fits(first, types=(np.float32,)):
            found = np.empty(first.shape, np.float32), np.empty(first.shape, np.uint8)
            pixel_loops.loops.median_of_two(first, first if len(stack) == 1 else last, *found)
            return found
        count = np.isfinite(first).view(np.uint8)
        if len(stack) == 2:
            count = count + np.isfinite(last).view(np.uint8)
        middle = first + last
        if (unsure := np.isnan(middle)).any():  # where one of them is NaN the other counts
            np.copyto(middle, np.fmax(first, last) * np.float32(2.0), where=unsure)
        middle *= np.float32(0.5)
        return middle, count
    count = np.isfinite(stack).sum(axis=0, dtype=np.uint8)
    stack.sort(axis=0)  # NaN sorts to the end
    low = np.maximum(count.astype(np.intp) - 1, 0) // 2
    high = np.minimum(count.astype(np.intp) // 2, stack.shape[0] - 1)
    median = np.take_along_axis(stack, low[None], axis=0)[0]
    median = (median + np.take_along_axis(stack, high[None], axis=0)[0]) * np.float32(0.5)
    return np.where(count > 0, median, np.float32(np.nan)), count


def _least_cloudy_first(reader: WindowReader, candidates: Sequence[Candidate]) -> tuple[_Float, npt.NDArray[np.uint8]]:
    reflectance = np.full((len(SENTINEL2_BANDS), *reader.shape), np.nan, np.float32)
    empty = np.ones(reader.shape, bool)
    for candidate, parts in masks_where_open(reader, candidates, empty, first=1):
        scene = candidate.scene
        use = np.zeros(reader.shape, bool)
        for part in parts:
            use[part.at] = part.clear & empty[part.at]
        if not use.any():
            continue
        extent = extent_of(use)
        at = slices(extent, Window(0, 0, *reader.shape))
        positions, names = zip(*_bands(scene), strict=True)
        values = reader.bands([scene], names, extent)
        if values is not None:
            taken = use[at] & np.isfinite(values[0]).all(axis=0)
            for position, image in zip(positions, values[0], strict=True):
                np.copyto(reflectance[position][at], image, where=taken)
            empty[at] &= ~taken
            reader.used.add(scene.id)
    return reflectance, (~empty).astype(np.uint8)
