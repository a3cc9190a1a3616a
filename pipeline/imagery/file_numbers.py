"""What the numbers of a raster file are: one band, as float32, NaN where there is no measurement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.enums import ColorInterp, MaskFlags

from pipeline.errors import ReadError
from pipeline.machine import pixel_loops

_Float = npt.NDArray[np.float32]


def check_single_band(ds: Any, url: str) -> None:
    """Raises :class:`ReadError` unless a dataset has a projection and one band, beside an alpha band perhaps."""
    alpha = ds.count == 2 and ds.colorinterp[1] == ColorInterp.alpha
    if ds.count != 1 and not alpha:
        raise ReadError(f"{url} has {ds.count} bands; give each band its own asset (a file or a VRT)")
    if ds.crs is None:
        raise ReadError(f"{url} has no projection")


def numbers_of(
    raw: npt.NDArray[Any],
    ds: Any,
    nodata: float,
    mask: Callable[[], npt.NDArray[np.uint8]],
    out: _Float | None = None,
) -> _Float:
    """Numbers of a file as float32, NaN where they are no measurement.

    The file's own mask, alpha band and nodata count whatever the metadata say, and theirs beside them.

    Args:
        raw: Of the file.
        ds: The file.
        nodata: What the metadata call so.
        mask: Reads the file's mask of the same pixels; asked only where the file has one.
        out: May be written to and returned, if it has the shape.
    """
    one_nodata = ds.nodata is None or ds.nodata == nodata or np.isnan(ds.nodata)
    if raw.ndim == 2 and one_nodata and not has_mask(ds) and pixel_loops.fits(raw, types=(np.uint16,)):
        numbers = np.empty(raw.shape, np.float32) if out is None or out.shape != raw.shape else out
        pixel_loops.loops.numbers(
            raw, int(nodata) if float(nodata).is_integer() and 0 <= nodata < 2**16 else -1, numbers
        )
        return numbers
    empty = raw == nodata
    if ds.nodata is not None and ds.nodata != nodata and not np.isnan(ds.nodata):
        empty |= raw == ds.nodata
    if has_mask(ds):
        empty |= mask() == 0
    if raw.dtype.kind == "f":
        empty |= ~np.isfinite(raw)
    numbers = raw.astype(np.float32)
    if empty.any():
        numbers[empty] = np.nan
    return numbers


def has_mask(ds: Any) -> bool:
    """True if a file says itself, pixel by pixel, what is no measurement."""
    flags = ds.mask_flag_enums[0]
    return MaskFlags.per_dataset in flags or MaskFlags.alpha in flags
