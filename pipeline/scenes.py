"""Scenes → one harmonised image of a window: surface reflectance, masked by the scene classification, composited.

Files are loaded by stackstac, lazily, with the grid always given (never guessed from an item), and computed at once
with dask's synchronous scheduler, because this code already runs in one of many worker processes.

Per pixel, scenes are taken from the least cloudy on. A pixel considers the first ``max_observations`` acquisitions
that saw it, and goes on to the next clear one only if all of these are cloudy there. The rule speaks of pixels, so the
result does not depend on how the map is cut into windows. Memory does not grow with the number of scenes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
import numpy.typing as npt
import shapely
import stackstac
import xarray as xr
from pyproj import Transformer
from rasterio.enums import Resampling
from shapely.affinity import translate
from shapely.geometry import shape

from pipeline.asset_reader import AssetReader
from pipeline.cloud_mask import clear_mask
from pipeline.config import CompositeConfig
from pipeline.errors import ReadError
from pipeline.granules import SAME_ACQUISITION
from pipeline.grid import geobox
from pipeline.plan import Window, ZoneGrid
from pipeline.radiometry import check_dark_pixels
from pipeline.scene import SCL, Scene
from pipeline.signing import signer_for
from spex_core.bands import SENTINEL2_BANDS

FOOTPRINT_SLACK_DEGREES = 0.02
"""Published footprints are simplified; a scene this close to the window is still looked at (2 km)."""
SCENES_PER_LOAD = 8
"""Scenes of one band that are held at once, besides the values kept for the median."""
SAMPLE_STEP_PX = 8
"""Every so many-th pixel goes into the check of dark pixels."""

_Float = npt.NDArray[np.float32]
_Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Composite:
    """One image of a window."""

    reflectance: _Float
    """float32 [10, h, w], band order of ``SENTINEL2_BANDS``; NaN in all bands where nothing was observed."""
    valid_count: npt.NDArray[np.uint8]
    """uint8 [h, w]: acquisitions that went into the pixel (for ``least-cloudy-first``: 0 or 1)."""
    problems: tuple[str, ...]
    """One line per scene that could not be read here, or whose values contradict its radiometry."""
    unread: tuple[str, ...] = ()
    """Ids of scenes that could not be read here: their pixels are missing, or another scene's are in their place."""


@dataclass
class _Use:
    """A scene and the pixels of the window that take it."""

    scene: Scene
    pixels: _Bool


def read_composite(scenes: Sequence[Scene], grid: ZoneGrid, window: Window, composite: CompositeConfig) -> Composite:
    """Reads and composites one window.

    A scene with a file that cannot be read (after retries) is left out of this window and reported; the next-best
    scene takes its place.

    Args:
        scenes: Candidates of the whole zone, in any order; the result does not depend on it.
        grid: Output grid.
        window: Pixels of that grid's lattice; may lie outside the grid.
        composite: Method, mask and limits.
    """
    order = sorted(scenes, key=lambda s: (s.cloud_cover, s.datetime, s.id))
    acquisitions = acquisition_numbers(order)
    reader = _WindowReader(grid, window, composite)
    near = _near(order, grid, window)
    candidates = [(scene, number) for scene, number, touches in zip(order, acquisitions, near, strict=True) if touches]
    if composite.method == "median":
        reflectance, count = _median(reader, candidates, composite.max_observations)
    else:
        reflectance, count = _least_cloudy_first(reader, candidates)
    return Composite(reflectance, count, reader.report(), reader.unread)


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


class _WindowReader:
    """Reads files of scenes for one window, remembers what failed and what the masks are."""

    def __init__(self, grid: ZoneGrid, window: Window, composite: CompositeConfig) -> None:
        self.grid = grid
        self.window = window
        self.shape = (window.height, window.width)
        self._mask_scl = composite.mask_scl
        # Growth is given in 10 m pixels; the grid may be coarser.
        self._dilation_px = round(composite.mask_dilation_px * 10.0 / grid.resolution_m)
        self._masks: dict[str, tuple[_Bool, _Bool]] = {}
        self._samples: dict[str, dict[str, _Float]] = {}
        self._problems: dict[str, str] = {}

    def failed(self, scene: Scene) -> bool:
        """True if a file of the scene could not be read."""
        return scene.id in self._problems

    def clear(self, scene: Scene) -> tuple[_Bool, _Bool] | None:
        """(seen, clear), each bool [h, w]: where the scene has data, and where it may be used. None if unreadable."""
        if self.failed(scene):
            return None
        if scene.id not in self._masks:
            halo = self._dilation_px
            grown = Window(
                self.window.row - halo,
                self.window.col - halo,
                self.window.height + 2 * halo,
                self.window.width + 2 * halo,
            )
            try:
                scl = load([scene], [SCL], self.grid, grown)[0, 0]
            except ReadError as error:
                self._problems[scene.id] = f"{scene.id}: {SCL}: {error}"
                return None
            classes = np.nan_to_num(scl, nan=0.0).astype(np.uint8)
            seen = classes[halo : halo + self.shape[0], halo : halo + self.shape[1]] != 0
            self._masks[scene.id] = (seen, clear_mask(classes, self._mask_scl, halo))
        return self._masks[scene.id]

    def bands(self, scenes: Sequence[Scene], names: Sequence[str]) -> _Float | None:
        """Reflectance: float32 [scene, band, h, w], NaN = none. None if any is unreadable, which is remembered."""
        try:
            values = load(scenes, names, self.grid, self.window)
        except ReadError as error:
            culprits = [(s, n) for s in scenes for n in names if str(error).startswith(f"{s.assets[n].href} ")]
            if not culprits:
                raise
            for scene, name in culprits:
                self._problems[scene.id] = f"{scene.id}: {name}: {error}"
            return None
        for i, scene in enumerate(scenes):
            _, clear = self._masks[scene.id]
            for j, name in enumerate(names):
                asset = scene.assets[name]
                values[i, j] *= np.float32(asset.scale)
                values[i, j] += np.float32(asset.offset)
                step = (slice(None, None, SAMPLE_STEP_PX),) * 2
                sample = np.where(clear[step], values[i, j][step], np.float32(np.nan))
                self._samples.setdefault(scene.id, {})[name] = sample
        return values

    @property
    def unread(self) -> tuple[str, ...]:
        """Ids of scenes with a file that could not be read, sorted."""
        return tuple(sorted(self._problems))

    def report(self) -> tuple[str, ...]:
        """Problems of reading, then warnings about radiometry, sorted."""
        warnings: list[str] = []
        for scene_id in sorted(self._samples):
            sample = self._samples[scene_id]
            if len(sample) == len(SENTINEL2_BANDS):
                found = check_dark_pixels(np.stack([sample[name] for name in SENTINEL2_BANDS]))
                if found:
                    warnings.append(f"{scene_id}: {found}")
        return (*(self._problems[k] for k in sorted(self._problems)), *warnings)


def _uses(reader: _WindowReader, candidates: Sequence[tuple[Scene, int]], limit: int) -> Iterator[_Use]:
    """Which pixels take which scene, by the rule in the head of this file, as far as the masks decide it."""
    considered = np.zeros(reader.shape, np.uint8)
    taken = np.zeros(reader.shape, np.uint8)
    seen_by: dict[int, _Bool] = {}
    taken_by: dict[int, _Bool] = {}
    for scene, acquisition in candidates:
        open_pixels = (considered < limit) | (taken == 0)
        if not open_pixels.any():
            return
        masks = reader.clear(scene)
        if masks is None:
            continue
        seen, clear = masks
        nothing = np.zeros(reader.shape, bool)
        use = clear & open_pixels & ~taken_by.get(acquisition, nothing)
        considered += seen & ~seen_by.get(acquisition, nothing) & (considered < 255)
        seen_by[acquisition] = seen_by.get(acquisition, nothing) | seen
        if use.any():
            taken_by[acquisition] = taken_by.get(acquisition, nothing) | use
            taken += use
            yield _Use(scene, use)


def _median(
    reader: _WindowReader, candidates: Sequence[tuple[Scene, int]], limit: int
) -> tuple[_Float, npt.NDArray[np.uint8]]:
    while True:
        uses = list(_uses(reader, candidates, limit))
        result = _median_of(reader, uses)
        if result is not None:
            return result
        # A file failed half-way: its scene is out, and every pixel it held is decided again.


def _median_of(reader: _WindowReader, uses: Sequence[_Use]) -> tuple[_Float, npt.NDArray[np.uint8]] | None:
    reflectance = np.full((len(SENTINEL2_BANDS), *reader.shape), np.nan, np.float32)
    count = np.zeros(reader.shape, np.uint8)
    for use in uses:
        count += use.pixels
    if not uses:
        return reflectance, count
    layers = _layers(uses)
    stack = np.empty((max(layers) + 1, *reader.shape), np.float32)
    for index, name in enumerate(SENTINEL2_BANDS):
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
    reader: _WindowReader, candidates: Sequence[tuple[Scene, int]]
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
        values = reader.bands([scene], SENTINEL2_BANDS)
        if values is not None:
            use &= np.isfinite(values[0]).all(axis=0)
            np.copyto(reflectance, values[0], where=use)
            filled |= use
    return reflectance, filled.astype(np.uint8)


def load(scenes: Sequence[Scene], names: Sequence[str], grid: ZoneGrid, window: Window) -> _Float:
    """Digital numbers on a window's pixels: float32 [scene, band, h, w], NaN = nodata or outside the file.

    Raises:
        ReadError: A file cannot be read.
    """
    lazy = lazy_stack(scenes, names, grid, window)
    with dask.config.set(scheduler="synchronous"):
        values: _Float = np.asarray(lazy.data.compute(), np.float32)
    if values.shape[:2] == (len(scenes), len(names)) and values.flags.writeable:
        return values
    # stackstac leaves out what lies outside the window, and broadcasts what is empty.
    out = np.full((len(scenes), len(names), window.height, window.width), np.nan, np.float32)
    if values.size:
        present = [int(i) for i in lazy["id"].values], [names.index(b) for b in lazy["band"].values]
        out[np.ix_(*present)] = values
    return out


def lazy_stack(scenes: Sequence[Scene], names: Sequence[str], grid: ZoneGrid, window: Window) -> xr.DataArray:
    """Files on a window's pixels, not read yet: dims (time, band, y, x); what the window does not touch is left out.

    Reflectance is interpolated bilinearly where files are coarser than the grid, classes by nearest neighbour.
    """
    bounds = geobox(grid, window).boundingbox.bbox
    within = (grid.epsg, bounds)
    # The position stands for the id: ids of several collections may repeat.
    items = [{**stackstac_item(scene, names, within), "id": str(i)} for i, scene in enumerate(scenes)]
    nodata = {scene.assets[name].href: scene.assets[name].nodata for scene in scenes for name in names}
    signers = {scene.provider for scene in scenes}
    if len(signers) > 1:
        raise ValueError(f"scenes of several providers in one stack: {sorted(signers)}")
    lazy: xr.DataArray = stackstac.stack(
        items,
        assets=list(names),
        epsg=grid.epsg,
        resolution=grid.resolution_m,
        bounds=bounds,
        snap_bounds=False,
        dtype=np.dtype("float32"),
        fill_value=np.float32(np.nan),
        rescale=False,
        resampling=Resampling.nearest if SCL in names else Resampling.bilinear,
        chunksize=(1, 1, window.height, window.width),
        sortby_date=False,
        xy_coords=False,
        properties=False,
        band_coords=False,
        reader=functools.partial(AssetReader, nodata=nodata, signer=signer_for(signers.pop())),
    )
    return lazy


def stackstac_item(
    scene: Scene,
    names: Sequence[str],
    within: tuple[int, tuple[float, float, float, float]] | None = None,
) -> dict[str, Any]:
    """A plain item that stackstac 0.5 understands: it knows ``proj:epsg`` only, whatever the provider wrote.

    Args:
        scene: The scene.
        names: Bands to offer as assets.
        within: EPSG and bounds of the grid to read on. Given to stackstac as the extent of files whose own is not
            known in that projection, because it would otherwise guess from four corners, and cut.
    """
    assets: dict[str, dict[str, Any]] = {}
    for name in names:
        asset = scene.assets[name]
        entry: dict[str, Any] = {"href": asset.href}
        if asset.shape is not None and asset.transform is not None and (within is None or within[0] == scene.epsg):
            entry |= {
                "proj:epsg": scene.epsg,
                "proj:shape": list(asset.shape),
                "proj:transform": list(asset.transform),
            }
        elif within is not None:
            entry |= {"proj:epsg": within[0], "proj:bbox": list(within[1])}
        assets[name] = entry
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": scene.id,
        "collection": scene.collection,
        "bbox": list(scene.bbox),
        "geometry": scene.footprint,
        "properties": {"datetime": scene.datetime.isoformat(), "proj:epsg": scene.epsg},
        "assets": assets,
    }
