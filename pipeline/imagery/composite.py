"""Scenes → one harmonised image of a window: surface reflectance, masked by the scene classification, composited.

Per pixel, scenes are taken from the least cloudy on. A pixel considers the first ``max_observations`` acquisitions
that saw it, and goes on to the next clear one only if all of these are cloudy there. The rule speaks of pixels, so the
result does not depend on how the map is cut into windows. Memory does not grow with the number of scenes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import Transformer
from shapely.affinity import translate
from shapely.geometry import shape

from pipeline.imagery.window_reader import WindowReader
from pipeline.records.grid import geobox
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.scene import SCL, Scene
from pipeline.settings.run_file import CompositeConfig
from pipeline.sources.hrefs import AssetDoor
from pipeline.sources.superseding import SAME_ACQUISITION
from spex_core.bands import SENTINEL2_BANDS

FOOTPRINT_SLACK_DEGREES = 0.02
"""Published footprints are simplified; a scene this close to the window is still looked at (2 km)."""
SCENES_PER_LOAD = 8
"""Scenes of one band that are held at once, besides the values kept for the median."""
_Float = npt.NDArray[np.float32]
_Bool = npt.NDArray[np.bool_]


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


@dataclass
class _Use:
    """A scene and the pixels of the window that take it."""

    scene: Scene
    pixels: _Bool


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
    order = sorted(scenes, key=lambda s: (s.cloud_cover, s.datetime, s.id))
    acquisitions = acquisition_numbers(order)
    reader = WindowReader(grid, window, composite, door)
    near = _near(order, grid, window)
    candidates = [(scene, number) for scene, number, touches in zip(order, acquisitions, near, strict=True) if touches]
    if composite.method == "median":
        reflectance, count = _median(reader, candidates, composite.max_observations)
    else:
        reflectance, count = _least_cloudy_first(reader, candidates)
    return Composite(reflectance, count, reader.report(), reader.unread, tuple(sorted(reader.used)))


def acquisition_numbers(scenes: Sequence[Scene]) -> list[int]:
    """Numbers the passes of a satellite: neighbouring granules of one pass are one observation of their overlap."""
    by_time = sorted(range(len(scenes)), key=lambda i: (scenes[i].datetime, scenes[i].id))
    numbers = [0] * len(scenes)
    number = 0
    for before, i in zip([None, *by_time], by_time, strict=False):
        if before is not None and scenes[i].datetime - scenes[before].datetime > SAME_ACQUISITION:
            number += 1
        numbers[i] = number
    return numbers


def _near(scenes: Sequence[Scene], grid: ZoneGrid, window: Window) -> list[bool]:
    """Which scenes may have pixels in the window: by their raster's extent where it is known, and their footprint."""
    box = geobox(grid, window).boundingbox
    to_lonlat = Transformer.from_crs(grid.epsg, 4326, always_xy=True)
    edge = shapely.segmentize(shapely.box(*box.bbox), max(box.span_x, box.span_y) / 8)
    lonlat = shapely.transform(edge, to_lonlat.transform, interleaved=False)
    if lonlat.bounds[2] - lonlat.bounds[0] > 180.0:
        # A window over the antimeridian: both of its sides are looked at.
        lonlat = shapely.transform(lonlat, lambda x, y: (np.where(x < 0, x + 360.0, x), y), interleaved=False)
        lonlat = shapely.union(lonlat, translate(lonlat, -360.0))
    area = shapely.buffer(lonlat, FOOTPRINT_SLACK_DEGREES)
    return [_overlaps(scene, grid, box.bbox) and bool(shape(scene.footprint).intersects(area)) for scene in scenes]


def _overlaps(scene: Scene, grid: ZoneGrid, bounds: tuple[float, float, float, float]) -> bool:
    scl = scene.assets[SCL]
    if scene.epsg != grid.epsg or scl.shape is None or scl.transform is None:
        return True
    step_x, _, left, _, step_y, top = scl.transform
    right, bottom = left + scl.shape[1] * step_x, top + scl.shape[0] * step_y
    return left < bounds[2] and bounds[0] < right and bottom < bounds[3] and bounds[1] < top


def _uses(reader: WindowReader, candidates: Sequence[tuple[Scene, int]], limit: int) -> Iterator[_Use]:
    """Which pixels take which scene, by the rule in the head of this file, as far as the masks decide it."""
    reader.prefetch([scene for scene, _ in candidates[:limit]])
    considered = np.zeros(reader.shape, np.uint8)
    taken = np.zeros(reader.shape, np.uint8)
    # Only passes with several granules here need to be remembered pixel by pixel.
    granules = Counter(acquisition for _, acquisition in candidates)
    seen_by = {a: np.zeros(reader.shape, bool) for a, n in granules.items() if n > 1}
    taken_by = {a: np.zeros(reader.shape, bool) for a, n in granules.items() if n > 1}
    for scene, acquisition in candidates:
        open_pixels = (considered < limit) | (taken == 0)
        if not open_pixels.any():
            return
        masks = reader.clear(scene)
        if masks is None:
            continue
        seen, clear = masks
        use = clear & open_pixels
        if acquisition in seen_by:
            use &= ~taken_by[acquisition]
            seen &= ~seen_by[acquisition]
            seen_by[acquisition] |= seen
            taken_by[acquisition] |= use
        considered += seen & (considered < 255)
        if use.any():
            taken += use
            yield _Use(scene, use)


def _median(
    reader: WindowReader, candidates: Sequence[tuple[Scene, int]], limit: int
) -> tuple[_Float, npt.NDArray[np.uint8]]:
    while True:
        uses = list(_uses(reader, candidates, limit))
        result = _median_of(reader, uses)
        if result is not None:
            reader.used = {use.scene.id for use in uses}
            return result
        # A file failed half-way: its scene is out, and every pixel it held is decided again.


def _median_of(reader: WindowReader, uses: Sequence[_Use]) -> tuple[_Float, npt.NDArray[np.uint8]] | None:
    reflectance = np.full((len(SENTINEL2_BANDS), *reader.shape), np.nan, np.float32)
    count = np.zeros(reader.shape, np.uint8)
    for use in uses:
        count += use.pixels
    if not uses:
        return reflectance, count
    layers = _layers(uses)
    stack = np.empty((max(layers) + 1, *reader.shape), np.float32)
    for index, name in _bands(uses[0].scene):
        stack.fill(np.nan)
        for first in range(0, len(uses), SCENES_PER_LOAD):
            group = slice(first, first + SCENES_PER_LOAD)
            values = reader.bands([use.scene for use in uses[group]], [name])
            if values is None:
                return None
            for use, layer, image in zip(uses[group], layers[group], values[:, 0], strict=True):
                np.copyto(stack[layer], image, where=use.pixels)
        reflectance[index], observed = nan_median(stack)
        # Where a file has nodata although the classification does not say so, the scarcest band counts.
        np.minimum(count, observed, out=count)
    reflectance[:, count == 0] = np.nan
    return reflectance, count


def _bands(scene: Scene) -> list[tuple[int, str]]:
    """Position in ``SENTINEL2_BANDS`` and name of the bands that are read: the same for all scenes of a run."""
    return [(index, name) for index, name in enumerate(SENTINEL2_BANDS) if name in scene.assets]


def _layers(uses: Sequence[_Use]) -> list[int]:
    """A layer of the stack for each use; uses that share no pixel (other granules) share a layer."""
    layers: list[int] = []
    occupied: list[_Bool] = []
    for use in uses:
        free = next((i for i, taken in enumerate(occupied) if not (taken & use.pixels).any()), None)
        if free is None:
            free = len(occupied)
            occupied.append(np.zeros_like(use.pixels))
        occupied[free] |= use.pixels
        layers.append(free)
    return layers


def nan_median(stack: _Float) -> tuple[_Float, npt.NDArray[np.uint8]]:
    """Median over the first axis without NaN, and how many values there were. Sorts ``stack`` in place.

    Args:
        stack: float32 [n, h, w].

    Returns:
        float32 [h, w] (NaN where no value), uint8 [h, w].
    """
    count = np.isfinite(stack).sum(axis=0, dtype=np.uint8)
    stack.sort(axis=0)  # NaN sorts to the end
    low = np.maximum(count.astype(np.intp) - 1, 0) // 2
    high = np.minimum(count.astype(np.intp) // 2, stack.shape[0] - 1)
    median = np.take_along_axis(stack, low[None], axis=0)[0]
    median = (median + np.take_along_axis(stack, high[None], axis=0)[0]) * np.float32(0.5)
    return np.where(count > 0, median, np.float32(np.nan)), count


def _least_cloudy_first(
    reader: WindowReader, candidates: Sequence[tuple[Scene, int]]
) -> tuple[_Float, npt.NDArray[np.uint8]]:
    reflectance = np.full((len(SENTINEL2_BANDS), *reader.shape), np.nan, np.float32)
    filled = np.zeros(reader.shape, bool)
    for scene, _ in candidates:
        if filled.all():
            break
        masks = reader.clear(scene)
        if masks is None:
            continue
        use = masks[1] & ~filled
        if not use.any():
            continue
        positions, names = zip(*_bands(scene), strict=True)
        values = reader.bands([scene], names)
        if values is not None:
            use &= np.isfinite(values[0]).all(axis=0)
            for position, image in zip(positions, values[0], strict=True):
                np.copyto(reflectance[position], image, where=use)
            filled |= use
            reader.used.add(scene.id)
    return reflectance, filled.astype(np.uint8)
