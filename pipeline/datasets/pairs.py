"""Pairs of an image file and a label file as training chips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.windows import Window

from pipeline.errors import ChipError
from spex_core.bands import BAND_INDEX, BANDS, Band
from spex_core.legend import Legend

FloatArray = npt.NDArray[np.float32]

SENTINEL2_L1C = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
"""The thirteen bands of a Level-1C product, in the order in which data sets stack them."""


@dataclass(frozen=True)
class Pair:
    """An image and its labels, or a window of both."""

    image: Path
    label: Path
    window: tuple[int, int, int, int] | None = None
    """Row, column, height, width."""


@dataclass(frozen=True)
class Layout:
    """How the pixels of a data set are stored."""

    bands: tuple[str, ...]
    """Sentinel-2 band that each band of an image stands for, in the file's order; bands of other names are left out."""
    scale: float
    """Reflectance is value * scale."""
    labels: Mapping[int, int] | None = None
    """Value in a label file → code of the legend; default: the legend's codes as they are. All others: no label."""


class ImagePairs:
    """Pairs as a :class:`spex_core.batches.ChipSource`; files are read when they are asked for.

    Args:
        pairs: In the order of the split.
        legend: Classes of the labels.
        layout: How pixels are stored.
    """

    def __init__(self, pairs: Sequence[Pair], legend: Legend, layout: Layout) -> None:
        self._pairs, self._layout = pairs, layout
        self._classes = len(legend)
        self._channel = np.full(1 << 16, -1, np.int16)  # label values are 8 or 16 bit; negative ones wrap around
        values = layout.labels or {code: code for code in legend.codes}
        for value, code in values.items():
            self._channel[value & 0xFFFF] = legend.codes.index(code)

    def __len__(self) -> int:
        return len(self._pairs)

    def chip(self, index: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """See :meth:`spex_core.batches.ChipSource.chip`.

        Raises:
            ChipError: A file is missing, unreadable, or not as released.
        """
        pair = self._pairs[index]
        values = read_raster(pair.image, pair.window)
        labels = read_raster(pair.label, pair.window)[0]
        if len(values) != len(self._layout.bands):
            raise ChipError(f"{pair.image} has {len(values)} bands; the release has {len(self._layout.bands)}")
        if labels.shape != values.shape[1:]:
            raise ChipError(f"{pair.label} is {labels.shape} px, its image {values.shape[1:]}")
        channel = self._channel[labels.astype(np.int64) & 0xFFFF]
        reflectance = to_reflectance(values, self._layout.bands, self._layout.scale)
        channel[~np.isfinite(reflectance).any(axis=0)] = -1
        return reflectance, *one_hot(channel, self._classes)


def read_raster(path: Path, window: tuple[int, int, int, int] | None = None) -> npt.NDArray[np.generic]:
    """All bands of a raster or of a window (row, column, height, width) of it, ``[C, H, W]``.

    Raises:
        ChipError: It cannot be read.
    """
    try:
        with rasterio.open(path) as file:
            view = None if window is None else Window(window[1], window[0], window[3], window[2])
            values: npt.NDArray[np.generic] = file.read(window=view)
            return values
    except rasterio.errors.RasterioError as error:
        raise ChipError(f"{path} cannot be read: {error}") from None


def to_reflectance(values: npt.NDArray[np.generic], bands: Sequence[str], scale: float) -> FloatArray:
    """Puts bands into the ten channels.

    Args:
        values: ``[C, H, W]`` as stored; pixels that are zero in all bands were not observed.
        bands: Names of the C bands; others than the ten are left out.
        scale: Reflectance is value * scale.

    Returns:
        ``[10, H, W]``, NaN in missing bands and pixels.
    """
    reflectance = np.full((len(BANDS), *values.shape[1:]), np.nan, np.float32)
    measured = np.asarray(values, np.float32)
    for name, layer in zip(bands, measured, strict=True):
        if name in BAND_INDEX:
            reflectance[BAND_INDEX[name]] = layer * np.float32(scale)
    empty = ~np.isfinite(measured).all(axis=0) | (measured == 0).all(axis=0)
    reflectance[:, empty] = np.nan
    return reflectance


def one_hot(channel: npt.NDArray[np.int16], classes: int) -> tuple[FloatArray, FloatArray]:
    """Probabilities ``[K, H, W]`` and weight ``[H, W]`` of class channels ``[H, W]``; -1: no label."""
    target = (channel[None] == np.arange(classes, dtype=np.int16)[:, None, None]).astype(np.float32)
    return target, (channel >= 0).astype(np.float32)


def sensor_with(*bands: Band) -> tuple[Band, ...]:
    """The ten channels with another sensor's bands in place of those of the same name."""
    others = {band.name: band for band in bands}
    return tuple(others.get(band.name, band) for band in BANDS)


def read_lines(path: Path) -> list[str]:
    """Lines of a split file, without empty ones.

    Raises:
        ChipError: It cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ChipError(f"split file {path} cannot be read: {error}") from None
    return [line.strip() for line in lines if line.strip()]


def plain_name(text: str, path: Path) -> str:
    """A file name from a split file: never a path that leads elsewhere.

    Raises:
        ChipError: It holds a separator or is no name.
    """
    if not text or text in (".", "..") or "/" in text or "\\" in text or "\0" in text:
        raise ChipError(f"split file {path}: {text!r} is not a file name")
    return text
