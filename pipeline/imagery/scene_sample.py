"""A small sample of a scene's files: numbers of a few bands at the same places, and what the files say of themselves.

Where a file has overviews the coarsest one is read, else a few of its tiles; never the whole of a large file. The
sample does not depend on the item's radiometry, so it can be kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.enums import Resampling
from rasterio.windows import Window

from pipeline.errors import ReadError
from pipeline.imagery.file_numbers import check_single_band, numbers_of
from pipeline.imagery.file_reader import AssetReader
from pipeline.records.scene import SCL, Scene
from pipeline.sources.hrefs import AssetDoor
from pipeline.sources.signing import signer_for

SAMPLE_SIDE_PX = 96
"""Rows and columns of samples over a whole file."""
PART_SIDE_PX = 44
"""The same over one of a few tiles."""
PART_PX = 512
"""Largest side of what is looked at of one tile, pixels of the file."""
MAX_DECODED_PX = 4_000_000
"""Pixels of a file that are decoded at most; what has only larger pieces is not sampled."""
PARTS = ((0.5, 0.5), (0.25, 0.25), (0.75, 0.75), (0.25, 0.75), (0.75, 0.25))
"""Tiles that are looked at, as shares of the file's rows and columns."""
PREFERRED = ("B02", "B04", "B8A", "B12", "B08", "B11", "B03", "B05", "B07", "B06")
"""Bands that tell most, best first: four over the spectrum, one of them beyond what haze reaches."""
SAMPLED_BANDS = 4

_Float = npt.NDArray[np.float32]
_Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class FileSample:
    """Some numbers of one file."""

    numbers: _Float
    """float32 [n]: as stored; NaN outside the file, and where its own mask or nodata says so."""
    dtype: str
    """Of the file."""
    epsg: int | None
    shape: tuple[int, int]
    transform: tuple[float, ...]
    """Six numbers, row-major."""


@dataclass(frozen=True)
class SceneSample:
    """What was read of one scene; place ``i`` is the same ground in every file."""

    bands: dict[str, FileSample]
    classes: npt.NDArray[np.uint8] | None = None
    """uint8 [n], scene classification; 0 outside. None where it could not be read."""
    place: tuple[Any, ...] = ()
    """Equal for scenes whose samples lie at the same places of the ground."""
    lasting: bool = field(default=True, compare=False)
    """False if a file may change without its name or time telling (VRT)."""


def bands_to_sample(scene: Scene) -> list[str]:
    """Up to four bands: over the spectrum, and of every radiometry that the scene's bands have."""
    there = [name for name in PREFERRED if name in scene.assets]
    chosen = there[:SAMPLED_BANDS]

    def kind(name: str) -> tuple[float, float, float]:
        asset = scene.assets[name]
        return asset.scale, asset.offset, asset.nodata

    for name in there[SAMPLED_BANDS:]:
        kinds = [kind(n) for n in chosen]
        repeated = [n for n in reversed(chosen) if kinds.count(kind(n)) > 1]
        if kind(name) not in kinds and repeated:
            chosen[chosen.index(repeated[0])] = name
    return chosen


def read_sample(scene: Scene, door: AssetDoor | None = None) -> SceneSample:
    """Reads the sample of one scene; a band or a classification that cannot be sampled is left out.

    Raises:
        ReadError: The first band cannot be read now, or has no small pieces.
    """
    names = bands_to_sample(scene)
    boxes: list[tuple[_Box, tuple[int, int]]] = []
    found: dict[str, FileSample] = {}
    crs, lasting = None, True

    def first(ds: Any) -> FileSample:
        nonlocal crs
        check_single_band(ds, scene.assets[names[0]].href)
        boxes[:] = _boxes(ds, scene.assets[names[0]].href)
        crs = ds.crs
        return other(ds)

    def other(ds: Any) -> FileSample:
        nonlocal lasting
        lasting &= ds.driver != "VRT"
        if ds.transform.is_degenerate:
            raise ReadError("its pixels have no size")
        if ds.crs != crs or not _is_cheap(ds, boxes):
            raise ReadError("another grid")
        return FileSample(
            _numbers(ds, boxes),
            str(ds.dtypes[0]),
            ds.crs.to_epsg(),
            (int(ds.height), int(ds.width)),
            tuple(float(v) for v in ds.transform[:6]),
        )

    found[names[0]] = _reader(scene, names[0], door).read_once(first)
    for name in names[1:]:
        try:
            found[name] = _reader(scene, name, door).read_once(other)
        except ReadError:
            continue  # reading tells it later
    classes = None
    if SCL in scene.assets:
        try:
            numbers = _reader(scene, SCL, door).read_once(other).numbers
            classes = np.where((numbers > 0) & (numbers < 256), numbers, 0).astype(np.uint8)
        except ReadError:
            classes = None
    corners = tuple(round(v, 3) for box, _ in boxes for v in box)
    return SceneSample(found, classes, (found[names[0]].epsg, corners, tuple(size for _, size in boxes)), lasting)


def _reader(scene: Scene, name: str, door: AssetDoor | None) -> AssetReader:
    return AssetReader(
        url=scene.assets[name].href,
        spec=None,
        resampling=Resampling.nearest,
        dtype=np.dtype("float32"),
        fill_value=np.nan,
        scale_offset=(1, 0),
        signer=signer_for(scene.assets[name].provider or scene.provider),
        door=door,
    )


def _decoded_px(ds: Any) -> int:
    """Pixels that a look at the whole file decodes."""
    factors = ds.overviews(1) if ds.driver != "JP2OpenJPEG" else []  # whose tiles are decoded whole
    factor = max(factors, default=1)
    return int(math.ceil(ds.height / factor) * math.ceil(ds.width / factor))


def _is_cheap(ds: Any, boxes: Sequence[tuple[_Box, tuple[int, int]]]) -> bool:
    rows, cols = ds.block_shapes[0]
    return (_decoded_px(ds) if len(boxes) == 1 else int(rows * cols)) <= MAX_DECODED_PX


def _whole(ds: Any) -> tuple[int, int]:
    return min(SAMPLE_SIDE_PX, ds.height), min(SAMPLE_SIDE_PX, ds.width)


def _boxes(ds: Any, url: str) -> list[tuple[_Box, tuple[int, int]]]:
    """Ground (west, south, east, north in the file's projection) that is sampled, and rows and columns of each."""
    if _decoded_px(ds) <= MAX_DECODED_PX:
        return [(_ground(ds, 0, 0, ds.height, ds.width), _whole(ds))]
    rows, cols = ds.block_shapes[0]
    if rows * cols > MAX_DECODED_PX:
        raise ReadError(f"{url} has neither overviews nor tiles: it is not sampled")
    found = []
    for down, right in PARTS:
        top, left = int(ds.height * down) // rows * rows, int(ds.width * right) // cols * cols
        height, width = min(rows, ds.height - top), min(cols, ds.width - left)
        inner_h, inner_w = min(height, PART_PX), min(width, PART_PX)
        top, left = top + (height - inner_h) // 2, left + (width - inner_w) // 2
        size = min(PART_SIDE_PX, inner_h), min(PART_SIDE_PX, inner_w)
        found.append((_ground(ds, top, left, inner_h, inner_w), size))
    return found


def _ground(ds: Any, row: int, col: int, height: int, width: int) -> _Box:
    left, top = ds.transform * (col, row)
    right, bottom = ds.transform * (col + width, row + height)
    return left, bottom, right, top


def _numbers(ds: Any, boxes: Sequence[tuple[_Box, tuple[int, int]]]) -> _Float:
    parts = []
    to_pixel: Affine = ~ds.transform
    for (west, south, east, north), size in boxes:
        left, top = to_pixel * (west, north)
        right, bottom = to_pixel * (east, south)
        row, col = round(top), round(left)
        height, width = max(round(bottom) - row, 1), max(round(right) - col, 1)
        if row < 0 or col < 0 or row + height > ds.height or col + width > ds.width:
            parts.append(np.full(size, np.nan, np.float32).ravel())
            continue
        window = Window(col, row, width, height)

        def mask(window: Window = window, size: tuple[int, int] = size) -> npt.NDArray[np.uint8]:
            read: npt.NDArray[np.uint8] = ds.read_masks(1, window=window, out_shape=size)
            return read

        parts.append(numbers_of(ds.read(1, window=window, out_shape=size), ds, math.nan, mask).ravel())
    return np.concatenate(parts)
