"""The maps of a region's zones joined into one file of another projected system, by the nearest pixel."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.io import DatasetWriter
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window as RasterWindow

from pipeline.errors import CogError
from pipeline.outputs.cog import check_cog, write_categories
from pipeline.outputs.cog_writer import WRITE_ERRORS, RasterForm, reason_of, write_cog
from pipeline.predict.stitch import CONFIDENCE_NODATA
from pipeline.records.grid import transform
from pipeline.records.plan import ZoneGrid
from spex_core.legend import Legend

_STRIP_PX = 2048
"""Side of what is warped at once."""


def mosaic_grid(zones: Sequence[ZoneGrid], epsg: int) -> ZoneGrid:
    """The smallest grid of a system that holds all zones, snapped to multiples of their resolution.

    Args:
        zones: Grids of the zones, one resolution.
        epsg: A projected system in metres.
    """
    step = zones[0].resolution_m
    boxes = [
        transform_bounds(
            f"EPSG:{zone.epsg}", f"EPSG:{epsg}", zone.left, zone.top - zone.height * step,
            zone.left + zone.width * step, zone.top, densify_pts=21,
        )
        for zone in zones
    ]  # fmt: skip
    left, bottom = (math.floor(min(box[i] for box in boxes) / step) for i in (0, 1))
    right, top = (math.ceil(max(box[i] for box in boxes) / step) for i in (2, 3))
    return ZoneGrid(epsg, left * step, top * step, step, top - bottom, right - left)


def write_mosaic(
    sources: Sequence[Path], path: Path, grid: ZoneGrid, legend: Legend | None, tags: Mapping[str, str]
) -> None:
    """Writes the joined file; where zones meet, the first one that has a pixel gives it.

    Args:
        sources: The zones' files, written and complete.
        path: The file.
        grid: From :func:`mosaic_grid`.
        legend: Of a class map; ``None``: percent of confidence.
        tags: Dataset tags.

    Raises:
        CogError: A file cannot be read or written.
        OutputError: The file beside it cannot be written.
    """
    nodata = CONFIDENCE_NODATA if legend is None else legend.nodata
    allowed = {*range(101), nodata} if legend is None else {nodata, *legend.codes}
    form = RasterForm(
        height=grid.height,
        width=grid.width,
        epsg=grid.epsg,
        transform=transform(grid),
        dtype="uint8",
        nodata=nodata,
        resampling="average" if legend is None else "mode",
        predictor=2 if legend is None else 1,
        colormap=None if legend is None else legend.colormap(),
    )

    def fill(target: DatasetWriter) -> None:
        with ExitStack() as opened:
            warped = []
            for source in sources:
                zone = opened.enter_context(rasterio.open(source))
                same = {"crs": f"EPSG:{grid.epsg}", "transform": form.transform, "height": grid.height}
                options = {**same, "width": grid.width, "resampling": Resampling.nearest, "nodata": nodata}
                warped.append(opened.enter_context(WarpedVRT(zone, **options)))
                description = zone.descriptions[0]
            for window in _windows(grid):
                values = np.full((int(window.height), int(window.width)), nodata, np.uint8)
                for zone in warped:
                    found = zone.read(1, window=window)
                    np.copyto(values, found, where=values == nodata)
                target.write(values, 1, window=window)
        target.set_band_description(1, description)
        target.update_tags(**dict(sorted(tags.items())))
        if legend is not None:
            target.update_tags(1, **{f"CLASS_{c.code}": c.name for c in legend})

    try:
        write_cog(path, form, fill, lambda cog: check_cog(cog, allowed))
    except WRITE_ERRORS as error:
        raise CogError(f"{path} cannot be written: {reason_of(error)}") from None
    if legend is not None:
        write_categories(path, legend)


def _windows(grid: ZoneGrid) -> Iterable[RasterWindow]:
    for row in range(0, grid.height, _STRIP_PX):
        for col in range(0, grid.width, _STRIP_PX):
            yield RasterWindow(col, row, min(_STRIP_PX, grid.width - col), min(_STRIP_PX, grid.height - row))
