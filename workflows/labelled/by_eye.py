"""Scenes without labels of others that we labelled ourselves, by eye: segments of pictures, the sure ones only.

The labels lie in ``workflows/training/labelled_by_eye``, a PNG per image with WorldCover codes and 0 where nothing is
said; how they came about is in docs/training-data.md. They are for training alone: every place here is on that side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.errors import ChipError
from spex_core.bands import BANDS, Band
from spex_core.legend import Legend
from workflows.labelled.landsat import amazon_points
from workflows.labelled.registry import Split
from workflows.labelled.scene import (
    Codes,
    FloatArray,
    LabelledScene,
    SourceLabel,
    from_digital,
    read_bands,
    sensor_bands,
    surface_of,
)
from workflows.teacher_scenes import RealScene, complete_scenes

FOLDER = Path(__file__).parents[1] / "training" / "labelled_by_eye"
CODES = {
    code: SourceLabel(name, code) for code, name in zip(Legend.from_yaml().codes, Legend.from_yaml().names, strict=True)
}
_RGBN = ("B02", "B03", "B04", "B08")
Image_ = tuple[str, str, tuple[Band, ...], FloatArray, float]
"""Name, sensor, bands, reflectance, side of a pixel in metres."""


def _river(folder: Path) -> Iterator[Image_]:
    """austria-ftw-s2: two dates side by side in one file, bands in the order red, green, blue, near infrared."""
    for date in (1, 2):
        first = 1 + 4 * (date - 1)
        digital = read_bands(folder / "ftw_two_dates.tif", [first + 2, first + 1, first, first + 3])
        yield f"austria{date}", "sentinel-2", sensor_bands("sentinel-2", _RGBN), from_digital(digital), 10.0


def _alps(folder: Path) -> Iterator[Image_]:
    """dolomites-s2: four bands at the top of the atmosphere, the offset of baseline 04.00 still in."""
    digital = read_bands(folder / "dolomites_B02_B03_B04_B08.tif", range(1, 5))
    bands = sensor_bands("sentinel-2", _RGBN)
    yield "dolomites", "sentinel-2", bands, surface_of(from_digital(digital - 1000, missing=-1000), bands), 10.0


def _felled(folder: Path) -> Iterator[Image_]:
    """bc-forest-s2: pixels of some 60 m, reflectance as it is, nine of its twelve bands."""
    names = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12")
    reflectance = read_bands(folder / "mS2_reflectance.tif", [2, 3, 4, 5, 6, 7, 8, 11, 12])
    yield "bc", "sentinel-2", sensor_bands("sentinel-2", names), reflectance, 60.0


def _rangeland(folder: Path) -> Iterator[Image_]:
    """southtexas-hls-l30: Landsat at 30 m."""
    digital = read_bands(folder / "hls_l30_6band_x10000.tif", range(1, 7))
    bands = sensor_bands("landsat-8", ("blue", "green", "red", "nir08", "swir16", "swir22"))
    yield "texas", "landsat-8", bands, from_digital(digital), 30.0


def _mining(folder: Path) -> Iterator[Image_]:
    """amazon-landsat8: the scene that nobody else has labelled."""
    for scene in amazon_points(folder):
        if scene.place.endswith("/madre-de-dios"):
            yield "madre-de-dios", scene.sensor, scene.bands, scene.reflectance, scene.pixel_m


READERS: dict[str, Callable[[Path], Iterator[Image_]]] = {
    "austria-ftw-s2": _river,
    "dolomites-s2": _alps,
    "bc-forest-s2": _felled,
    "southtexas-hls-l30": _rangeland,
    "amazon-landsat8/madre-de-dios": _mining,
}


def labelled_by_eye(root: Path, split: Split, labels: Path = FOLDER) -> Iterator[LabelledScene]:
    """Every image below ``root`` that has a file of labels, in order; folders that are missing are left out.

    Args:
        root: Holds the samples' folders.
        split: Must have their places on the side of training.
        labels: Files ``NAME.png``.

    Raises:
        ChipError: A sample or a file of labels cannot be read, they differ in size, or a place is for evaluation.
    """
    for place, read in READERS.items():
        folder = root / place.split("/")[0]
        if folder.is_dir():
            for name, sensor, bands, reflectance, pixel_m in read(folder):
                yield from _labelled(name, place, sensor, bands, reflectance, pixel_m, split, labels)
    for scene in complete_scenes(root):
        if _file(labels, scene.name).exists():
            yield from _labelled(
                scene.name, str(scene.place), "sentinel-2", BANDS, _observed(scene), 10.0, split, labels
            )


def _observed(scene: RealScene) -> FloatArray:
    return np.where(scene.observed, scene.surface, np.nan).astype(np.float32)


def _labelled(
    name: str,
    place: str,
    sensor: str,
    bands: tuple[Band, ...],
    reflectance: FloatArray,
    pixel_m: float,
    split: Split,
    labels: Path,
) -> Iterator[LabelledScene]:
    path = _file(labels, name)
    if not path.exists():
        return
    if split.side(place) != "train":
        raise ChipError(f"{path}: {place} is for evaluation; labels by eye are for training alone")
    codes = read_codes(path)
    if codes.shape != reflectance.shape[1:]:
        raise ChipError(f"{path} is {list(codes.shape)}, its image {list(reflectance.shape[1:])}")
    yield LabelledScene(f"{place}/{name}", place, sensor, bands, reflectance, pixel_m, codes, CODES, "eye")


def _file(labels: Path, name: str) -> Path:
    return labels / f"{name}.png"


def read_codes(path: Path) -> Codes:
    """WorldCover codes of a file of labels, uint8 ``[H, W]``.

    Raises:
        ChipError: Unreadable, or a number that is no code.
    """
    try:
        with Image.open(path) as image:
            codes = np.asarray(image, np.uint8)
    except (OSError, ValueError, UnidentifiedImageError) as error:
        raise ChipError(f"{path} cannot be read: {error}") from None
    strange = set(np.unique(codes).tolist()) - {0, *CODES}
    if codes.ndim != 2 or strange:
        raise ChipError(f"{path} holds numbers that are no WorldCover codes: {sorted(strange)[:5]}")
    return codes
