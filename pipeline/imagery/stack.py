"""Files of scenes on a window of the output grid: read now (:func:`load`), or as a lazy xarray stack by stackstac.

Both read with the same readers and give the same numbers. A run's blocks are read now: a reader then starts without
stackstac, xarray and dask (two CPU seconds), and their passes over the pixels are not made. stackstac 0.5 knows
``proj:epsg`` only and guesses a grid where it finds none (stackstac issue 262), so it is handed normalised items and
never asked to choose bounds, resolution or projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.enums import Resampling
from rasterio.windows import Window as RasterWindow

from pipeline.imagery.copies import CopyReaders, Notes, band_file
from pipeline.records.grid import geobox, window_bounds
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.scene import SCL, Scene, SceneAsset
from pipeline.sources.hrefs import AssetDoor

if TYPE_CHECKING:
    import xarray as xr

REMOTE_READS = 8
"""Remote files of one window that are read at the same time; most of their time is waiting."""

_Float = npt.NDArray[np.float32]


def load(
    scenes: Sequence[Scene],
    names: Sequence[str],
    grid: ZoneGrid,
    window: Window,
    door: AssetDoor | None = None,
    notes: Notes | None = None,
) -> _Float:
    """Digital numbers on a window's pixels: float32 [scene, band, h, w], NaN = nodata or outside the file.

    ``door`` says what may be opened; without one, redirects stay on each href's own server. ``notes`` is told of copies
    that were read in place of others.

    Raises:
        ReadError: A file cannot be read, nor any copy of it.
    """
    out = np.empty((len(scenes), len(names), window.height, window.width), np.float32)
    if not scenes:
        return out
    bounds = window_bounds(grid, window)
    spec = _Spec(grid.epsg, Affine(grid.resolution_m, 0.0, bounds[0], 0.0, -grid.resolution_m, bounds[3]))
    files = {scene.assets[name].href: band_file(scene, name) for scene in scenes for name in names}
    readers = CopyReaders(files, door, {} if notes is None else notes)

    def read(at: tuple[int, int]) -> None:
        scene, name = scenes[at[0]], names[at[1]]
        if scene.epsg == grid.epsg and _lies_outside(scene.assets[name], bounds):
            out[at] = np.nan
            return
        reader = readers(url=scene.assets[name].href, **_reading(names), spec=spec, scale_offset=(1, 0))
        values = reader.read(RasterWindow(0, 0, window.width, window.height), out[at])
        if values.base is not out:
            out[at] = values

    places = list(np.ndindex(len(scenes), len(names)))
    if not any(file.remote for file in files.values()):
        # Local files are read one after the other: this code already runs in one of many worker processes.
        for at in places:
            read(at)
        return out
    pool = ThreadPoolExecutor(min(REMOTE_READS, len(places)), thread_name_prefix="spex-read")
    try:
        for done in [pool.submit(read, at) for at in places]:
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)
    return out


@dataclass(frozen=True)
class _Spec:
    """The grid of a window, as far as readers ask for it."""

    epsg: int
    transform: Affine


def _reading(names: Sequence[str]) -> dict[str, Any]:
    """How files are read. Reflectance is interpolated where they are coarser than the grid, classes are not."""
    resampling = Resampling.nearest if SCL in names else Resampling.bilinear
    return {"resampling": resampling, "dtype": np.dtype("float32"), "fill_value": np.float32(np.nan)}


def _lies_outside(asset: SceneAsset, bounds: tuple[float, float, float, float]) -> bool:
    """True if a file is known to have no pixel within bounds of its own projection; it is not opened then."""
    if asset.shape is None or asset.transform is None:
        return False
    own = Affine(*asset.transform[:6])
    corners = [own * corner for corner in ((0, 0), (asset.shape[1], 0), (0, asset.shape[0]), asset.shape[::-1])]
    xs, ys = zip(*corners, strict=True)
    return bool(min(xs) >= bounds[2] or max(xs) <= bounds[0] or min(ys) >= bounds[3] or max(ys) <= bounds[1])


def lazy_stack(
    scenes: Sequence[Scene],
    names: Sequence[str],
    grid: ZoneGrid,
    window: Window,
    door: AssetDoor | None = None,
    together: tuple[int, int] = (1, 1),
    notes: Notes | None = None,
) -> xr.DataArray:
    """Files on a window's pixels, not read yet: dims (time, band, y, x); what the window does not touch is left out.

    Reflectance is interpolated bilinearly where files are coarser than the grid, classes by nearest neighbour.
    ``together`` is how many scenes and bands make one chunk, which is read file by file.
    """
    import stackstac

    bounds = geobox(grid, window).boundingbox.bbox
    within = (grid.epsg, bounds)
    # The position stands for the id: ids of several collections may repeat.
    items = [{**stackstac_item(scene, names, within), "id": str(i)} for i, scene in enumerate(scenes)]
    files = {scene.assets[name].href: band_file(scene, name) for scene in scenes for name in names}
    lazy: xr.DataArray = stackstac.stack(
        items,
        assets=list(names),
        epsg=grid.epsg,
        resolution=grid.resolution_m,
        bounds=bounds,
        snap_bounds=False,
        rescale=False,
        **_reading(names),
        chunksize=(*together, window.height, window.width),
        sortby_date=False,
        xy_coords=False,
        properties=False,
        band_coords=False,
        reader=CopyReaders(files, door, {} if notes is None else notes),
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
