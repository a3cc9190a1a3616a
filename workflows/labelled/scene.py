"""What a reader of a labelled sample gives: reflectance in its sensor's bands, the source's labels, their meaning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyogrio
import rasterio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from shapely.geometry.base import BaseGeometry

from pipeline.chips.chip_folder import SCALE
from pipeline.errors import ChipError
from spex_core.augmentation import BOA_TO_TOA
from spex_core.bands import BANDS, LANDSAT_BANDS, LANDSAT_ETM_BANDS, LANDSAT_TM_BANDS, Band, band_slots

FloatArray = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]

Grid = tuple[tuple[int, int], Any, Any]
"""Shape, transform and coordinate system of a raster."""

Kind = Literal["drawn", "points", "register", "field", "map", "mask", "tags", "eye", "none"]
"""How the labels came about: polygons or points that somebody drew, the farmers' register, measured in the field, a map
of a model or of coarse units, a mask of clouds and water, words about a whole image, by eye in a picture, or not at
all."""

SENSORS: dict[str, tuple[Band, ...]] = {
    "sentinel-2": BANDS,
    "landsat-8": LANDSAT_BANDS,
    "landsat-7": LANDSAT_ETM_BANDS,
    "landsat-5": LANDSAT_TM_BANDS,
    "enmap-as-sentinel-2": BANDS,
    "spectrometer-as-sentinel-2": BANDS,
}
"""Bands of each sensor that a sample comes from."""

DARKEST = 0.01
"""Surface reflectance of the darkest ground of a scene, where it has water, dense forest or shadow."""


@dataclass(frozen=True)
class SourceLabel:
    """What a label of a source is called there and what it is in WorldCover's terms."""

    name: str
    code: int = 0
    """WorldCover code; 0: the name alone does not tell."""
    among: tuple[int, ...] = ()
    """Where ``code`` is 0: the codes that it can be."""


Meanings = Mapping[int, SourceLabel]
"""Number in a source's label file → what it means; numbers that are missing here say nothing."""


@dataclass(frozen=True)
class LabelledScene:
    """One image with labels."""

    name: str
    """Unique; the place and what tells its images apart."""
    place: str
    """What the split is about: everything of one place is on one side."""
    sensor: str
    """One of :data:`SENSORS`."""
    bands: tuple[Band, ...]
    """Those that the sample has; others of the sensor stay missing."""
    reflectance: FloatArray
    """``[len(bands), H, W]`` surface reflectance, 0..1 as a rule; NaN: not observed."""
    pixel_m: float
    labels: Codes
    """``[H, W]`` numbers of the source."""
    meanings: Meanings
    kind: Kind
    date: str | None = None
    """``YYYY-MM-DD`` where the source tells it."""

    def __post_init__(self) -> None:
        if self.reflectance.shape != (len(self.bands), *self.labels.shape):
            raise ChipError(
                f"{self.name}: {list(self.reflectance.shape)} reflectance does not fit {len(self.bands)} bands "
                f"and labels {list(self.labels.shape)}"
            )

    @property
    def observed(self) -> npt.NDArray[np.bool_]:
        """``[H, W]``: every band has a value."""
        return np.asarray(np.isfinite(self.reflectance).all(axis=0))

    @property
    def filled(self) -> FloatArray:
        """:attr:`reflectance` with the mean of the rest where nothing was observed, as at run time."""
        observed = self.observed
        mean = self.reflectance[:, observed].mean(axis=1)[:, None, None]
        return np.where(observed, self.reflectance, mean).astype(np.float32)

    @property
    def codes(self) -> Codes:
        """``[H, W]`` WorldCover codes; 0: no label, none that tells the class, or not observed."""
        codes = codes_of(self.labels, self.meanings)
        codes[~self.observed] = 0
        return codes

    @property
    def slots(self) -> tuple[int, ...]:
        """Channel of each band among the ten of Sentinel-2."""
        return band_slots(self.bands)[0]


@dataclass(frozen=True)
class LabelledSpectra:
    """One table of single pixels or spectra with labels."""

    place: str
    sensor: str
    bands: tuple[Band, ...]
    reflectance: FloatArray
    """``[N, len(bands)]`` surface reflectance."""
    labels: npt.NDArray[np.int64]
    """``[N]`` numbers, keys of ``meanings``."""
    meanings: Meanings
    groups: npt.NDArray[np.int64]
    """``[N]``: polygon or plot; rows of one group are never on both sides of a comparison."""
    kind: Kind
    date: str | None = None
    """``YYYY-MM-DD``, or the first and last month of a composite, ``YYYY-MM/YYYY-MM``."""
    fractions: FloatArray | None = None
    """``[N, 3]`` shares of green plants, dry plants and bare ground, where they were measured."""

    def __post_init__(self) -> None:
        count = len(self.labels)
        if self.reflectance.shape != (count, len(self.bands)) or self.groups.shape != (count,):
            raise ChipError(f"{self.place}: reflectance, labels and groups differ in length")

    @property
    def codes(self) -> Codes:
        """``[N]`` WorldCover codes, 0 where the label does not tell or a band is missing."""
        codes = codes_of(self.labels, self.meanings)
        codes[~np.isfinite(self.reflectance).all(axis=1)] = 0
        return codes


def codes_of(labels: npt.NDArray[Any], meanings: Meanings) -> Codes:
    """WorldCover codes of a source's numbers, in the same shape."""
    codes = np.zeros(labels.shape, np.uint8)
    for number, meaning in meanings.items():
        codes[labels == number] = meaning.code
    return codes


def sensor_bands(sensor: str, names: Sequence[str]) -> tuple[Band, ...]:
    """Bands of a sensor by name or common name, in the order asked for.

    Raises:
        ChipError: The sensor has no such band.
    """
    known = {key: band for band in SENSORS[sensor] for key in (band.common_name, band.name)}
    try:
        return tuple(known[name] for name in names)
    except KeyError as error:
        raise ChipError(f"{sensor} has no band {error}") from None


def read_bands(
    path: Path | str, numbers: Sequence[int], shape: tuple[int, int] | None = None
) -> npt.NDArray[np.float32]:
    """Bands of a raster as float32 ``[len(numbers), H, W]``, bilinear where ``shape`` is another than its own.

    Raises:
        ChipError: Missing or unreadable.
    """
    try:
        with rasterio.open(path) as source:
            size = source.shape if shape is None else shape
            read = source.read(list(numbers), out_shape=(len(numbers), *size), resampling=Resampling.bilinear)
    except RasterioError as error:
        raise ChipError(f"{path} cannot be read: {error}") from None
    return np.asarray(read, np.float32)


def read_labels(path: Path) -> Codes:
    """First band of a raster of label numbers, uint8 ``[H, W]``.

    Raises:
        ChipError: Missing or unreadable.
    """
    return np.asarray(read_bands(path, [1])[0], np.uint8)


def from_digital(digital: FloatArray, missing: float | None = 0.0, scale: float = SCALE) -> FloatArray:
    """Reflectance of digital numbers; ``missing`` in any band, and numbers below -0.05, make a pixel unobserved."""
    reflectance = (digital / scale).astype(np.float32)
    gone = (reflectance < -0.05).any(axis=0)
    if missing is not None:
        gone |= (digital == missing).any(axis=0)
    reflectance[:, gone] = np.nan
    return reflectance


def surface_of(toa: FloatArray, bands: Sequence[Band]) -> FloatArray:
    """Top-of-atmosphere reflectance ``[bands, H, W]`` as surface reflectance.

    By the average atmosphere, or a thinner one in bands whose darkest pixels would come out below :data:`DARKEST`: over
    mountains and deserts less of the sky is in the image.
    """
    surface = np.empty_like(toa)
    for index, slot in enumerate(band_slots(bands)[0]):
        slope, offset = BOA_TO_TOA[BANDS[slot].name]
        seen = toa[index][np.isfinite(toa[index])]
        dark = float(np.percentile(seen, 0.5)) if seen.size else 1.0
        share = min(max((dark - DARKEST) / (offset - DARKEST * (1 - slope)), 0.0), 1.0) if offset > DARKEST else 1.0
        surface[index] = (toa[index] - share * offset) / (1 - share * (1 - slope))
    return surface


def grid_of(path: Path) -> Grid:
    """Shape, transform and coordinate system of a raster.

    Raises:
        ChipError: Missing or unreadable.
    """
    try:
        with rasterio.open(path) as source:
            return source.shape, source.transform, source.crs
    except RasterioError as error:
        raise ChipError(f"{path} cannot be read: {error}") from None


def read_shapes(path: Path, field: str | None) -> Iterator[tuple[BaseGeometry, Any]]:
    """Geometries of a vector file of one layer and their value in ``field`` (None: no value is asked for).

    Raises:
        ChipError: Missing, unreadable, or without that field.
    """
    try:
        meta, _, geometries, columns = pyogrio.raw.read(path, columns=[field] if field else [])
    except (DataSourceError, DataLayerError, OSError, ValueError) as error:
        raise ChipError(f"{path} cannot be read: {error}") from None
    if field and field not in list(meta["fields"]):
        raise ChipError(f"{path} has no field {field!r}")
    values = columns[0] if field else [None] * len(geometries)
    yield from zip(shapely.from_wkb(geometries), values, strict=True)


def painted(shapes: Sequence[tuple[BaseGeometry, int]], grid: Grid, empty: int = 0) -> Codes:
    """Label numbers of shapes on a raster's grid, uint8 ``[H, W]``: pixels whose centre lies inside, or hold the point.

    Raises:
        ChipError: None of the shapes touches the raster.
    """
    shape, transform, _ = grid
    burnt = np.full(shape, empty, np.uint8)
    if shapes:
        burnt = rasterize(shapes, shape, fill=empty, transform=transform, dtype="uint8")
    if not (burnt != empty).any():
        raise ChipError("no label lies on the image: do both have the same coordinate system?")
    return np.asarray(burnt, np.uint8)
