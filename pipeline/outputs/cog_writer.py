"""The one way to write a Cloud-Optimized GeoTIFF: a complete tiled GeoTIFF, one translation, a check, a rename.

GDAL's COG driver fed by chunks can end without overviews, and tags written after the translation break the layout: so
the draft is completed first, colours and tags included, gets its overviews, and is copied once. No time stamp enters
the file, and one thread writes it: the same pixels give the same bytes.

A map with holes goes another way to the same layout, because GDAL's overviews go through every pixel of the bounding
box. Draft, overviews and file are sparse: tiles without a pixel are not in them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
from rasterio import Affine
from rasterio._err import CPLE_BaseError
from rasterio.enums import Resampling
from rasterio.errors import CRSError, DriverRegistrationError, RasterioError
from rasterio.io import DatasetWriter
from rasterio.shutil import copy as copy_raster
from rasterio.windows import Window as RasterWindow
from rio_cogeo.cogeo import cog_validate

from pipeline.errors import CogError
from pipeline.outputs.overviews import write_overviews
from pipeline.records.plan import Window
from spex_core.durable_files import put_in_place

TILE_PX = 512
"""Tile of the written files, and the size that the smallest overview fits."""
WRITE_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    RasterioError,
    CPLE_BaseError,  # GDAL's own, which rasterio lets through where it copies a file
    CRSError,  # this one and the next are ValueErrors, of a PROJ without data and a GDAL without GeoTIFF
    DriverRegistrationError,
)
"""What writing raises where disk, rights or libraries refuse."""
CACHE_BYTES = 64
"""GDAL's cache of decoded tiles while maps are written, as good as none: tiles come in order, and a larger one only
costs time. Rasterio hands the number on as bytes."""
OverviewResampling = Literal["mode", "nearest", "average"]

_OVERVIEW_TILES_PX = (TILE_PX, 256, 128, 64)
"""Tiles of the overviews, best first; GDAL takes powers of two from 64 (``GDAL_TIFF_OVR_BLOCKSIZE``)."""
_DECIMATIONS = (2, 3)
"""How much smaller each overview is than the level before it, best first."""


@dataclass(frozen=True)
class Layout:
    """Tiles and overviews of a file."""

    tile_px: int
    overview_tile_px: int
    decimation: int
    levels: int
    """Overviews."""

    @property
    def factors(self) -> tuple[int, ...]:
        """Decimation of each overview against the full image."""
        return tuple(self.decimation**level for level in range(1, self.levels + 1))


def layout_of(height: int, width: int) -> Layout:
    """Tiles and overviews of an image: halved until its longer side fits one tile, and no level taken for untiled.

    rio-cogeo (``rio cogeo validate``, and so this module's own check) takes a level of more than 512 px for untiled
    where its tile is exactly as wide as itself. Such images get smaller tiles: 1,024 x 1,200 px has an overview of
    512 x 600. A strip more than eight times as tall as wide meets every tile that GDAL offers on its way down; its
    levels are thirds. A column of one pixel has no overviews: theirs would be as wide as itself, and a decimation is
    told by the width.
    """
    tile_px = TILE_PX if not _looks_untiled(height, width, TILE_PX) else TILE_PX // 2
    for decimation in _DECIMATIONS:
        sizes = _overview_sizes(height, width, decimation)
        for overview_tile_px in _OVERVIEW_TILES_PX:
            if not any(_looks_untiled(*size, overview_tile_px) for size in sizes):
                return Layout(tile_px, overview_tile_px, decimation, len(sizes))
    raise CogError(f"no tiling of a map of {height} x {width} px would be a valid COG; cut the region differently")


def _overview_sizes(height: int, width: int, decimation: int) -> list[tuple[int, int]]:
    """Height and width of each overview; GDAL rounds up."""
    sizes: list[tuple[int, int]] = []
    factor = 1
    while width > 1 and max(-(-height // factor), -(-width // factor)) > TILE_PX:
        factor *= decimation
        sizes.append((-(-height // factor), -(-width // factor)))
    return sizes


def _looks_untiled(height: int, width: int, tile_px: int) -> bool:
    return max(height, width) > 512 and width == tile_px


@dataclass(frozen=True)
class RasterForm:
    """A raster, apart from its pixels."""

    height: int
    width: int
    epsg: int
    transform: Affine
    dtype: str
    nodata: int | None
    resampling: OverviewResampling
    """Of the overviews. ``average`` of class codes is a third class."""
    predictor: int = 1
    """TIFF predictor: 1 none (codes have no gradient), 2 horizontal differences."""
    colormap: Mapping[int, tuple[int, int, int, int]] | None = None
    count: int = 1
    """Bands."""


def write_cog(
    path: Path,
    form: RasterForm,
    fill: Callable[[DatasetWriter], None],
    check: Callable[[Path], None] | None = None,
    windows: Sequence[Window] | None = None,
) -> None:
    """Writes a COG; it appears under its name when it is complete, valid and on disk.

    Args:
        path: Destination; its folder is made if missing.
        form: Everything but the pixels.
        fill: Writes pixels, description and tags into the draft, an open GeoTIFF with tiles of :data:`TILE_PX`.
        check: Called with the finished file before it gets its name; default: :func:`validate_cog`.
        windows: Where ``fill`` writes pixels, if not everywhere: time, memory and bytes then follow these windows
            instead of the whole image. Tiles without a pixel are left out; readers find nodata there, or 0.

    Raises:
        WRITE_ERRORS: Not writable, or what ``fill`` raises.
        CogError: Not a valid COG.
    """
    layout = layout_of(form.height, form.width)
    options = _gdal_options(layout)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A folder beside the destination: same file system, and whatever GDAL leaves behind goes with it.
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder, rasterio.Env(**options):
        draft, cog = Path(folder) / "draft" / "tiled.tif", Path(folder) / "cog.tif"
        draft.parent.mkdir()
        with rasterio.open(draft, "w", **_draft_profile(form), sparse_ok=windows is not None) as target:
            if form.colormap is not None:
                target.write_colormap(1, dict(form.colormap))
            fill(target)
            if windows is not None:
                target.update_tags(OVERVIEW_RESAMPLING=form.resampling.upper())  # as rio-cogeo does
        if windows is None:
            _translate(draft, cog, form, layout)
        else:
            _translate_sparse(draft, cog, form, layout, windows)
        shutil.rmtree(draft.parent)
        (check or validate_cog)(cog)
        put_in_place(cog, path)


def _translate(draft: Path, cog: Path, form: RasterForm, layout: Layout) -> None:
    """What ``cog_translate`` of rio-cogeo does with such a draft, byte by byte, but for its copy of the draft: that is
    made through a warped dataset, and takes longer than overviews and compression together."""
    with rasterio.open(draft, "r+") as target:
        target.build_overviews(list(layout.factors), Resampling[form.resampling])
        target.update_tags(OVERVIEW_RESAMPLING=form.resampling.upper())
        copy_raster(target, cog, copy_src_overviews=True, **_cog_profile(form, layout))


def _translate_sparse(draft: Path, cog: Path, form: RasterForm, layout: Layout, windows: Sequence[Window]) -> None:
    write_overviews(
        draft,
        windows,
        levels=layout.levels,
        decimation=layout.decimation,
        tile_px=layout.overview_tile_px,
        resampling=form.resampling,
    )
    copy_raster(draft, cog, copy_src_overviews=True, sparse_ok=True, **_cog_profile(form, layout))


def write_blank_cog(path: Path, form: RasterForm) -> None:
    """Writes a COG of a form in which only the first tile holds pixels; checked as :func:`write_cog` checks.

    What the shape of a map can do to its file is seen before the map is computed, in a second or two.

    Raises:
        WRITE_ERRORS: Not writable.
        CogError: A file of this form is not a valid COG.
    """
    first = Window(0, 0, min(form.height, TILE_PX), min(form.width, TILE_PX))

    def fill(target: DatasetWriter) -> None:
        pixels = np.ones((first.height, first.width), form.dtype)
        target.write(pixels, 1, window=RasterWindow(0, 0, first.width, first.height))

    write_cog(path, form, fill, windows=(first,))


@contextmanager
def small_cache() -> Iterator[None]:
    """Keeps GDAL's cache small for as long as several threads write.

    The cache is one for the whole process. A thread that has written its file gives it back the size that it found,
    which is 5 % of the machine's memory unless somebody holds it here, and the others would fill that.
    """
    with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
        yield


def reason_of(error: Exception) -> str:
    """What an error of :data:`WRITE_ERRORS` says; GDAL's own words where rasterio only points to them."""
    cause = error.__cause__
    return f"{error} ({cause})" if isinstance(error, RasterioError) and cause is not None else str(error)


def validate_cog(path: Path) -> None:
    """Checks that a file is a valid COG, by rio-cogeo and without a warning (but that a column has no overviews).

    Raises:
        CogError: It is not; the message says why.
    """
    valid, errors, warnings = cog_validate(path, quiet=True)
    if not valid or (warnings and _width(path) > 1):
        raise CogError(f"{path.name} is not a valid COG: {'; '.join([*errors, *warnings])}")


def _width(path: Path) -> int:
    with rasterio.open(path) as source:
        return int(source.width)


def _gdal_options(layout: Layout) -> dict[str, Any]:
    return {
        "GDAL_NUM_THREADS": "1",  # one writer, one order
        "GDAL_CACHEMAX": CACHE_BYTES,
        "GDAL_TIFF_OVR_BLOCKSIZE": str(layout.overview_tile_px),
        "GDAL_PAM_ENABLED": "NO",  # no side files next to temporary names
        "GDAL_DISABLE_READDIR_ON_OPEN": "FALSE",  # overviews beside a draft are found, whatever the user has set
    }


def _draft_profile(form: RasterForm) -> dict[str, Any]:
    # Not compressed: a store block need not end where a file's tile ends, and rewriting compressed tiles leaks space.
    return {
        "driver": "GTiff",
        "dtype": form.dtype,
        "count": form.count,
        "height": form.height,
        "width": form.width,
        "crs": f"EPSG:{form.epsg}",
        "transform": form.transform,
        "tiled": True,
        "blockxsize": TILE_PX,
        "blockysize": TILE_PX,
        "bigtiff": "IF_SAFER",
        "nodata": form.nodata,
        "interleave": _interleave(form),
        "photometric": "PALETTE" if form.colormap else "RGB" if form.count == 3 else "MINISBLACK",
    }


def _interleave(form: RasterForm) -> str:
    return "pixel" if form.count == 3 else "band"  # colours are read together


def _cog_profile(form: RasterForm, layout: Layout) -> dict[str, Any]:
    return {
        "driver": "GTiff",
        "tiled": True,
        "blockxsize": layout.tile_px,
        "blockysize": layout.tile_px,
        "compress": "DEFLATE",
        "zlevel": 6,
        "interleave": _interleave(form),
        "bigtiff": "IF_SAFER",
        "predictor": form.predictor,
    }
