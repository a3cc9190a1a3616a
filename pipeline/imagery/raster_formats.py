"""Which files are opened as rasters, and by which driver: GeoTIFF and JPEG 2000 by their first bytes, nothing else.

GDAL knows a hundred formats, many of which are lists of other files and addresses. A driver is therefore named for
every file, never guessed by GDAL. The one list of files that is read is a plain local VRT, see
:mod:`pipeline.imagery.local_vrt`.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rasterio

from pipeline.errors import ReadError
from pipeline.imagery.gdal_settings import DRIVERS_REMOTE
from pipeline.imagery.local_vrt import looks_like_vrt, plain_vrt

HEAD_BYTES = 512

_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_JPEG_2000 = (b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")


def driver_of(head: bytes) -> str | None:
    """The driver for a file that begins so; None for a format that is not read."""
    tiff, jpeg_2000 = DRIVERS_REMOTE
    if head.startswith(_TIFF):
        return tiff
    return jpeg_2000 if head.startswith(_JPEG_2000) else None


def format_of(head: bytes, name: str) -> str:
    """The driver for a file that begins so.

    Raises:
        ReadError: It is not a format that is read; names the file.
    """
    driver = driver_of(head)
    if driver is None:
        raise ReadError(f"{name} cannot be read: it is neither a GeoTIFF nor a JPEG 2000 file")
    return driver


def opened_local(path: Path, roots: Sequence[str] = ()) -> Any:
    """A local raster as a rasterio dataset, inside the caller's ``rasterio.Env``.

    Args:
        path: GeoTIFF, JPEG 2000 or plain VRT.
        roots: Folders that hold the files of a VRT, if the run file names any; else they lie beside or below it.

    Raises:
        ReadError: Not a file of a format that is read, or a VRT that names what it may not.
        rasterio.errors.RasterioError: GDAL cannot open it.
    """
    head = _head(path)
    if looks_like_vrt(head):
        return rasterio.DatasetReader(plain_vrt(path, roots, _is_raster), driver=["VRT"], sharing=False)
    return rasterio.DatasetReader(str(path), driver=[format_of(head, str(path))], sharing=False)


def _is_raster(path: Path) -> bool:
    try:
        return driver_of(_head(path)) is not None
    except ReadError:
        return False


def _head(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ReadError(f"{path} cannot be read: it is not a file")
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise ReadError(f"{path} cannot be read: {error.strerror or error}") from None
