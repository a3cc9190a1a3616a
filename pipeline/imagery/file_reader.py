"""Reads one window of one single-band raster onto a grid, as a stackstac ``Reader``.

stackstac's own reader warps every file whose grid is not exactly the one asked for. This one signs the href when it
opens it, treats the scene's nodata value as such even where the file forgets to say so, converts GDAL's errors, and
copies pixels without a warp where the file shares the grid's lattice: 10 m bands are read as they are, 20 m bands are
interpolated from whole native pixels. Either way a pixel's value does not depend on the window it was read in.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.errors
import rasterio.warp
from affine import Affine
from rasterio.enums import Resampling
from rasterio.transform import array_bounds
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from pipeline.errors import HrefError, NoAnswerError, ReadError
from pipeline.imagery.bucket_access import access_advice
from pipeline.imagery.file_numbers import check_single_band, has_mask, numbers_of
from pipeline.imagery.gdal_settings import DRIVERS_REMOTE, gdal_options
from pipeline.imagery.open_files import OpenRaster, open_files
from pipeline.imagery.raster_formats import opened_local
from pipeline.imagery.remote_file import RemoteFileError, open_remote
from pipeline.imagery.upsampling import upsample_bilinear
from pipeline.records.utm import northing_shift_m
from pipeline.sources import hrefs
from pipeline.sources.signing import NoSigner, Signer

ATTEMPTS = 3
BACKOFF_S = 1.0
GIVEN_UP_S = 300.0
"""A remote file that failed every attempt is not asked for again by this process for so long: the blocks of a run
share their scenes, and each would spend the same patience on the same dead file."""
WARP_CELL_PX = 256
"""Warped reads are made in cells of a lattice fixed to the projection's origin. GDAL approximates coordinate
transformations along each piece it warps, so only equal pieces give equal pixels."""
MAX_BLOCK_PX = 128 * 1024 * 1024
"""Largest tile or strip that is read, more than a whole untiled granule. A small file may promise a huge one."""
_LATTICE_TOLERANCE_PX = 1e-3
_WARP_RING_PX = 4
"""Pixels around a cell that are read with it: neighbours for interpolation, and the bend of its edges."""
_Float = npt.NDArray[np.float32]
_Result = TypeVar("_Result")
_given_up: dict[str, tuple[float, str]] = {}
"""href → (monotonic time, message)."""


class AssetReader:
    """stackstac ``Reader`` of one file. ``read`` returns float32 digital numbers, NaN where there is none.

    Beyond stackstac's own arguments: ``nodata`` maps href to the scene's nodata value, ``signer`` signs hrefs, ``door``
    says what may be opened on the way; without one, redirects stay on the href's own server. With fewer ``attempts``
    than usual a remote file is given up only where asking again cannot help.
    """

    def __init__(
        self,
        *,
        url: str,
        spec: Any,
        resampling: Resampling,
        dtype: Any,
        fill_value: Any,
        scale_offset: Any,
        gdal_env: Any = None,
        errors_as_nodata: Any = (),
        nodata: Mapping[str, float] | None = None,
        signer: Signer | None = None,
        door: hrefs.AssetDoor | None = None,
        attempts: int = ATTEMPTS,
    ) -> None:
        self.url = url
        self.spec = spec
        self.resampling = resampling
        self.nodata = (nodata or {}).get(url, 0)
        self.signer = signer or NoSigner()
        self.door = door
        self.attempts = attempts

    def read(self, window: Window, out: _Float | None = None, **_: Any) -> _Float:
        """Pixels of a window of ``spec``'s grid: float32 [height, width]; ``out`` where that saves a pass over them.

        Raises:
            NoAnswerError: Its server does not answer after all attempts.
            ReadError: The file may not be opened, or cannot be opened or decoded; names the unsigned href.
        """
        since, message = _given_up.get(self.url, (-math.inf, ""))
        if time.monotonic() - since < GIVEN_UP_S:
            raise ReadError(message)
        return self._asked(lambda ds: self._read(ds, window, out), self.attempts, gdal_options(self.url), keep=True)

    def read_once(self, read: Callable[[Any], _Result]) -> _Result:
        """What a function reads of the open file, without patience: one attempt, and the file is closed again.

        Args:
            read: Gets the rasterio dataset, inside the environment for it.

        Raises:
            ReadError: The file may not be opened, or cannot be read now; names the unsigned href.
        """
        return self._asked(read, 1, {**gdal_options(self.url), "GDAL_HTTP_MAX_RETRY": 0}, keep=False)

    def _asked(self, read: Callable[[Any], _Result], attempts: int, settings: dict[str, Any], keep: bool) -> _Result:
        scheme = self._checked_scheme()
        final = unanswered = False
        for attempt in range(attempts):
            opened = self.signer.sign(self.url)
            options = dict(settings)
            if attempt and scheme in hrefs.BUCKET_SCHEMES:
                # GDAL remembers failures of a URL; a retry has to ask the server again.
                options["CPL_VSIL_CURL_NON_CACHED"] = f"/vsi{scheme}/{opened.partition('://')[2]}"
            try:
                with rasterio.Env(**options), self._open(opened, options, keep) as ds:
                    return read(ds)
            except (
                rasterio.errors.RasterioError,
                rasterio.errors.RasterioIOError,
                RemoteFileError,
                ValueError,
                MemoryError,
            ) as error:
                reason = _reason(error).replace(opened, self.url)
                final = self._is_final(error, reason)
                unanswered = isinstance(error, RemoteFileError) and not final
                if attempt + 1 == attempts or final:
                    message = f"{self.url} cannot be read: {reason}{self._advice(scheme, reason)}"
                    break
            time.sleep(BACKOFF_S * 2**attempt)
        if keep and hrefs.local_path(self.url) is None and (final or attempts >= ATTEMPTS):
            _given_up[self.url] = (time.monotonic(), message)
        # The cause is not chained: rasterio's errors do not pickle, and their text may hold a signature.
        raise (NoAnswerError if unanswered else ReadError)(message) from None

    def _advice(self, scheme: str, reason: str) -> str:
        refused = scheme == "s3" and any(words in reason for words in ("code: 403", "code: 401", "AWS_", "redentials"))
        return f" ({access_advice(self.url)})" if refused else ""

    def _checked_scheme(self) -> str:
        """Scheme of the href, "file" for a path; asked again here because a plan may have been carried far."""
        try:
            hrefs.check_plain(self.url)
            if self.door is not None:
                self.door.checked(self.url, "asset")
            local = hrefs.local_path(self.url) is not None
        except HrefError as error:
            raise ReadError(f"{self.url} cannot be read: refused: {error}") from None
        return "file" if local else self.url.partition("://")[0].lower()

    @contextlib.contextmanager
    def _open(self, opened: str, options: Mapping[str, Any], keep: bool) -> Iterator[Any]:
        """The dataset, opened now or before; closed after an error, or where it is not to be kept."""
        path = hrefs.local_path(self.url)
        key = (opened, self.door, None if path is None else _state(path))
        raster = open_files.take(key) or self._opened(path, opened, options)
        try:
            try:
                yield raster.dataset
            finally:
                raster.check()  # what GDAL says is less than what the connection knows
        except BaseException:
            raster.close()
            raise
        if raster.dataset.driver == "VRT" or not keep:  # the files of a VRT may change without it
            raster.close()
        else:
            open_files.keep(key, raster)

    def _opened(self, path: Path | None, opened: str, options: Mapping[str, Any]) -> OpenRaster:
        if path is not None:
            return OpenRaster(opened_local(path, self.door.roots if self.door else ()))
        if self.url.lower().startswith(("http://", "https://")):
            door = self.door or hrefs.CatalogDoor("/".join([*self.url.split("/")[:3], ""]))
            return open_remote(opened, self.url, door, options)
        return OpenRaster(rasterio.DatasetReader(opened, driver=list(DRIVERS_REMOTE), sharing=False))

    def _read(self, ds: Any, window: Window, out: _Float | None) -> _Float:
        check_single_band(ds, self.url)
        block_rows, block_cols = ds.block_shapes[0]
        if block_rows * block_cols > MAX_BLOCK_PX:
            raise ReadError(
                f"{self.url} is stored in pieces of {block_rows} × {block_cols} px, which are only read whole; "
                "give it tiles (rio cogeo create)"
            )
        row, col = int(window.row_off), int(window.col_off)
        height, width = int(window.height), int(window.width)
        own = self._in_grid(ds)
        ratio = None if own is None else self._lattice_ratio(own, ds.shape)
        if own is None or ratio is None:
            return self._warp(ds, row, col, height, width)
        return self._copy(ds, own, ratio, (row, col, height, width), out)

    def _in_grid(self, ds: Any) -> Affine | None:
        """The file's transform in the grid's projection, if both differ by a false northing at most, else None.

        The two hemispheres of a UTM zone are one projection: granules on both sides of the equator share their pixels.
        """
        shift = northing_shift_m(ds.crs.to_epsg() or 0, self.spec.epsg)
        own = ds.transform
        return None if shift is None else Affine(own.a, own.b, own.c, own.d, own.e, own.f + shift)

    def _lattice_ratio(self, own: Affine, shape: tuple[int, int]) -> int | None:
        """Grid pixels per file pixel if the file's pixel borders all fall on the grid's, else None."""
        grid = self.spec.transform
        if own.b or own.d or own.a <= 0 or own.e >= 0:
            return None
        steps = (own.a / grid.a, own.e / grid.e)
        shifts = ((own.c - grid.c) / grid.a, (own.f - grid.f) / grid.e)
        ratio = round(steps[0])
        exact = ratio >= 1 and all(abs(s - ratio) * max(shape) < _LATTICE_TOLERANCE_PX for s in steps)
        exact = exact and all(abs(s - round(s)) < _LATTICE_TOLERANCE_PX for s in shifts)
        return ratio if exact else None

    def _copy(self, ds: Any, own: Affine, ratio: int, place: tuple[int, int, int, int], out: _Float | None) -> _Float:
        grid = self.spec.transform
        row, col, height, width = place
        # First pixel of the window, in grid pixels from the file's corner.
        top = row - round((own.f - grid.f) / grid.e)
        left = col - round((own.c - grid.c) / grid.a)
        interpolate = ratio > 1 and self.resampling != Resampling.nearest
        ring = 1 if interpolate else 0
        first_row, last_row = math.floor(top / ratio) - ring, math.ceil((top + height) / ratio) + ring
        first_col, last_col = math.floor(left / ratio) - ring, math.ceil((left + width) / ratio) + ring
        r0, r1 = max(first_row, 0), min(last_row, ds.height)
        c0, c1 = max(first_col, 0), min(last_col, ds.width)
        if (r0, c0, r1, c1) == (first_row, first_col, last_row, last_col):
            native = self._numbers(ds, Window(c0, r0, c1 - c0, r1 - r0), out if ratio == 1 else None)
        else:
            native = np.full((last_row - first_row, last_col - first_col), np.nan, np.float32)
            if r0 < r1 and c0 < c1:
                native[r0 - first_row : r1 - first_row, c0 - first_col : c1 - first_col] = self._numbers(
                    ds, Window(c0, r0, c1 - c0, r1 - r0)
                )
        if interpolate:
            native = upsample_bilinear(native, ratio, out)
            first_row, first_col = first_row + ring, first_col + ring
        elif ratio > 1:
            native = native.repeat(ratio, axis=0).repeat(ratio, axis=1)
        r, c = top - first_row * ratio, left - first_col * ratio
        return np.ascontiguousarray(native[r : r + height, c : c + width])

    def _numbers(self, ds: Any, window: Window, out: _Float | None = None) -> _Float:
        return numbers_of(ds.read(1, window=window), ds, self.nodata, lambda: ds.read_masks(1, window=window), out)

    def _warp(self, ds: Any, row: int, col: int, height: int, width: int) -> _Float:
        grid = self.spec.transform
        out = np.full((height, width), np.nan, np.float32)
        # Position of the window on the lattice of the projection's origin, px.
        top = round(grid.f / grid.e) + row
        left = round(grid.c / grid.a) + col
        for cell_row in range(top // WARP_CELL_PX, -(-(top + height) // WARP_CELL_PX)):
            for cell_col in range(left // WARP_CELL_PX, -(-(left + width) // WARP_CELL_PX)):
                cell_top, cell_left = cell_row * WARP_CELL_PX, cell_col * WARP_CELL_PX
                data = self._warp_cell(ds, cell_top - top + row, cell_left - left + col)
                r0, r1 = max(cell_top, top), min(cell_top + WARP_CELL_PX, top + height)
                c0, c1 = max(cell_left, left), min(cell_left + WARP_CELL_PX, left + width)
                out[r0 - top : r1 - top, c0 - left : c1 - left] = data[
                    r0 - cell_top : r1 - cell_top, c0 - cell_left : c1 - cell_left
                ]
        return out

    def _warp_cell(self, ds: Any, row: int, col: int) -> _Float:
        grid = self.spec.transform
        place = Affine(grid.a, 0.0, grid.c + col * grid.a, 0.0, grid.e, grid.f + row * grid.e)
        if not self._one_nodata(ds):
            return self._warp_numbers(ds, place)
        with WarpedVRT(
            ds,
            crs=f"EPSG:{self.spec.epsg}",
            transform=place,
            width=WARP_CELL_PX,
            height=WARP_CELL_PX,
            resampling=self.resampling,
            src_nodata=self.nodata if ds.nodata is None or np.isnan(ds.nodata) else ds.nodata,
            nodata=np.nan,
            dtype="float32",
        ) as vrt:
            data: _Float = vrt.read(1)
        data[data == np.float32(self.nodata)] = np.nan
        return data

    def _one_nodata(self, ds: Any) -> bool:
        """True if one number marks every pixel that is none, so that GDAL can leave them out itself."""
        kind = np.dtype(ds.dtypes[0])
        if has_mask(ds) or kind.kind not in "iu":
            return False
        limits = np.iinfo(kind)
        return limits.min <= self.nodata <= limits.max and ds.nodata in (None, self.nodata)

    def _warp_numbers(self, ds: Any, place: Affine) -> _Float:
        """A cell warped from the file's own numbers, after its mask and every nodata value were taken out."""
        out = np.full((WARP_CELL_PX, WARP_CELL_PX), np.nan, np.float32)
        crs = f"EPSG:{self.spec.epsg}"
        bounds = rasterio.warp.transform_bounds(crs, ds.crs, *array_bounds(WARP_CELL_PX, WARP_CELL_PX, place))
        if not np.isfinite(bounds).all():
            return out
        to_pixel = ~ds.transform
        corners = [to_pixel * (bounds[i], bounds[j]) for i in (0, 2) for j in (1, 3)]
        columns, rows = zip(*corners, strict=True)
        c0, r0 = (max(math.floor(min(v)) - _WARP_RING_PX, 0) for v in (columns, rows))
        c1 = min(math.ceil(max(columns)) + _WARP_RING_PX, ds.width)
        r1 = min(math.ceil(max(rows)) + _WARP_RING_PX, ds.height)
        if c0 >= c1 or r0 >= r1:
            return out
        if (r1 - r0) * (c1 - c0) > MAX_BLOCK_PX:
            raise ReadError(f"{self.url} has pixels far smaller than the map's; give the map a finer resolution_m")
        rasterio.warp.reproject(
            self._numbers(ds, Window(c0, r0, c1 - c0, r1 - r0)),
            out,
            src_transform=ds.transform * Affine.translation(c0, r0),
            src_crs=ds.crs,
            src_nodata=np.nan,
            dst_transform=place,
            dst_crs=crs,
            dst_nodata=np.nan,
            resampling=self.resampling,
        )
        return out

    def _is_final(self, error: BaseException, reason: str) -> bool:
        """True if asking again cannot help: no such file, no permission, not a raster, out of memory."""
        if "response code: 403" in reason:
            return isinstance(self.signer, NoSigner)  # a signature may just have expired
        if isinstance(error, RemoteFileError):
            return error.final
        final = ("response code: 404", "No such file", "not recognized", "AWS_SECRET_ACCESS_KEY")
        return isinstance(error, MemoryError) or any(words in reason for words in final)

    def close(self) -> None:
        """Nothing stays open between reads."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def _reason(error: BaseException) -> str:
    """The innermost message: GDAL's own words stand at the end of rasterio's chain of causes."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__


def _state(path: Path) -> tuple[int, ...]:
    """What tells that a local file is no longer the one that was opened."""
    try:
        found = path.stat()
    except OSError:
        return ()  # opening it will tell
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
