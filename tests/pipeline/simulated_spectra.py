"""Plausible ground in the four sampled bands, and files that hold it in right and wrong ways. Test support."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.imagery.scene_sample import FileSample, SceneSample
from pipeline.records.scene import SCL, Scene, SceneAsset
from spex_core.bands import SENTINEL2_BANDS

BANDS = ("B02", "B04", "B8A", "B12")
SIDE = 60
COVERS: dict[str, tuple[tuple[float, float, float, float], int]] = {
    # blue, red, near infrared, shortwave infrared at 2.2 µm; class of the scene classification
    "forest": ((0.02, 0.02, 0.28, 0.05), 4),
    "crops": ((0.03, 0.04, 0.42, 0.09), 4),
    "dry grass": ((0.06, 0.11, 0.25, 0.2), 5),
    "soil": ((0.08, 0.16, 0.26, 0.28), 5),
    "desert": ((0.16, 0.34, 0.45, 0.55), 5),
    "dark rock": ((0.06, 0.08, 0.1, 0.11), 5),
    "salt": ((0.6, 0.68, 0.7, 0.4), 5),
    "snow": ((0.92, 0.9, 0.8, 0.06), 11),
    "old snow": ((0.55, 0.55, 0.48, 0.04), 11),
    "dark water": ((0.02, 0.006, 0.002, 0.001), 6),
    "lake": ((0.04, 0.03, 0.01, 0.005), 6),
    "turbid water": ((0.08, 0.12, 0.06, 0.01), 6),
    "town": ((0.12, 0.15, 0.23, 0.21), 5),
    "winter forest": ((0.008, 0.01, 0.03, 0.012), 4),
    "burnt": ((0.03, 0.04, 0.07, 0.14), 5),
    "shaded slope": ((-0.01, 0.0, 0.015, 0.004), 2),
    "cloud": ((0.6, 0.62, 0.66, 0.4), 9),
    "bright cloud": ((1.05, 1.08, 1.1, 0.6), 9),
}


def ground(covers: dict[str, float], seed: int = 0, light: float = 1.0) -> tuple[npt.NDArray[np.float32], Any]:
    """Reflectance ``[4, SIDE * SIDE]`` of a patchwork of covers with their shares, and its classification."""
    rng = np.random.default_rng(seed)
    names = sorted(covers)
    shares = np.array([covers[n] for n in names]) / sum(covers.values())
    patches = rng.choice(len(names), (SIDE // 4, SIDE // 4), p=shares)
    patches = np.kron(patches, np.ones((4, 4), int)).ravel()
    spectra = np.array([COVERS[n][0] for n in names], np.float32)[patches].T
    texture = 1.0 + 0.12 * rng.standard_normal(spectra.shape[1]) + 0.03 * rng.standard_normal(spectra.shape)
    values = spectra * texture.astype(np.float32) * np.float32(light)
    values += rng.normal(0.0, 0.002, spectra.shape).astype(np.float32)
    return values.astype(np.float32), np.array([COVERS[n][1] for n in names], np.uint8)[patches]


def digital(reflectance: npt.NDArray[Any], offset: float = -0.1, scale: float = 1e-4) -> npt.NDArray[np.float32]:
    """Whole numbers from 1 to 65535, as the products hold them."""
    return np.clip(np.round((reflectance - offset) / scale), 1, 65535).astype(np.float32)


def sample_of(
    numbers: npt.NDArray[Any],
    classes: Any = None,
    dtype: str = "uint16",
    place: tuple[Any, ...] = ("here",),
    **grid: Any,
) -> SceneSample:
    """What reading would have given for files that hold these numbers."""
    about = {"epsg": 32632, "shape": (SIDE, SIDE), "transform": (10.0, 0.0, 600_000.0, 0.0, -10.0, 5_100_000.0)} | grid
    files = {
        name: FileSample(values.astype(np.float32), dtype, **about)
        for name, values in zip(BANDS, numbers, strict=False)
    }
    return SceneSample(files, classes, place)


def scene_of(
    scale: float = 1e-4,
    offset: float = -0.1,
    nodata: float = 0,
    told: tuple[float, ...] = (),
    identifier: str = "S2A_32TPS",
    bands: tuple[str, ...] = SENTINEL2_BANDS,
) -> Scene:
    """A scene with one radiometry for all its bands."""
    asset = SceneAsset("https://example.org/x.tif", scale, offset, nodata, 10.0, (SIDE, SIDE),
                       (10.0, 0.0, 600_000.0, 0.0, -10.0, 5_100_000.0))  # fmt: skip
    return Scene(
        id=identifier,
        collection="sentinel-2-l2a",
        provider="generic",
        datetime=dt.datetime(2026, 6, 1, 10, tzinfo=dt.UTC),
        cloud_cover=1.0,
        epsg=32632,
        bbox=(10.0, 46.0, 10.1, 46.1),
        footprint={},
        assets={**dict.fromkeys(bands, asset), SCL: SceneAsset("https://example.org/scl.tif")},
        radiometry="as the metadata say",
        told_offsets=told,
    )
