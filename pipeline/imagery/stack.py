"""Files of scenes as lazy xarray stacks on a window of the output grid, by stackstac, the grid always given explicitly.

stackstac 0.5 knows ``proj:epsg`` only and guesses a grid where it finds none (stackstac issue 262), so it is handed
normalised items and never asked to choose bounds, resolution or projection.

stackstac, xarray and dask are imported on the first read: two CPU seconds that the driver and finishers do not need.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rasterio.enums import Resampling

from pipeline.imagery.copies import CopyReaders, Notes, band_file
from pipeline.records.grid import geobox
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.scene import SCL, Scene
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
    import dask
    from dask.local import get_sync

    if not scenes:
        return np.empty((0, len(names), window.height, window.width), np.float32)
    # Local files are read one after the other: this code already runs in one of many worker processes. In one chunk,
    # because joining many is one more pass over all pixels.
    remote = any(band_file(scene, name).remote for scene in scenes for name in names)
    together = (1, 1) if remote else (len(scenes), len(names))
    lazy = lazy_stack(scenes, names, grid, window, door, together, notes)
    scheduler = {"scheduler": "threads", "num_workers": REMOTE_READS} if remote else {"scheduler": "synchronous"}
    if lazy.data.npartitions == 1:  # dask.compute would copy the answer
        ((((key,),),),) = lazy.data.__dask_keys__()
        values: _Float = np.asarray(get_sync(lazy.data.__dask_graph__(), key), np.float32)
    else:
        with dask.config.set(scheduler):
            values = np.asarray(lazy.data.compute(), np.float32)
    if values.shape[:2] == (len(scenes), len(names)) and values.flags.writeable:
        return values
    # stackstac leaves out what lies outside the window, and broadcasts what is empty.
    out = np.full((len(scenes), len(names), window.height, window.width), np.nan, np.float32)
    if values.size:
        present = [int(i) for i in lazy["id"].values], [names.index(b) for b in lazy["band"].values]
        out[np.ix_(*present)] = values
    return out


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
        dtype=np.dtype("float32"),
        fill_value=np.float32(np.nan),
        rescale=False,
        resampling=Resampling.nearest if SCL in names else Resampling.bilinear,
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
