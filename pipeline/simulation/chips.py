"""Labelled chips for training: one window of a random world at a random time of year."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.simulation.biomes import Biome, varied_biome
from pipeline.simulation.landscape import PIXEL_M, Landscape
from pipeline.simulation.noise import FloatArray, fractal_noise
from pipeline.simulation.sensor import PAD_PX, native_bands, upsample_20m
from pipeline.simulation.spectra import HAZE_SPECTRUM, material_table
from pipeline.simulation.surface import Light, surface_reflectance
from spex_core.bands import BANDS

COMPOSITE_SHARE = 0.3
"""Share of chips that mix two dates."""


def simulate_chip(
    seed: int,
    size_px: int = 256,
    *,
    biome: Biome | None = None,
    season: float | None = None,
    haze: float | None = None,
    offset_error: float | None = None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Draws a random landscape as Sentinel-2 would deliver it on the 10 m grid.

    Args:
        seed: Decides world, place, season and atmosphere.
        size_px: Side of the chip, 10 m pixels; even.
        biome: Climate and land use; default: random.
        season: Year phase 0..1 (0 midwinter, 0.5 midsummer); default: random.
        haze: Residual B02 reflectance of the atmosphere; default: random, mostly below 0.02.
        offset_error: Flat reflectance error, as of a forgotten baseline offset; default: random, mostly below 0.01.

    Returns:
        Reflectance float32 ``[10, size_px, size_px]`` in the order of ``SENTINEL2_BANDS`` (20 m bands sampled at 20 m
        and brought back by bilinear interpolation) and WorldCover codes uint8 ``[size_px, size_px]``, never 0.

    Raises:
        ValueError: ``size_px`` is odd or not positive.
    """
    if size_px <= 0 or size_px % 2:
        raise ValueError(f"size_px {size_px} must be even and positive, because two 10 m pixels share a 20 m pixel")
    rng = np.random.default_rng([seed, 0x53324C32])
    biome = biome or varied_biome(rng)
    season = float(rng.uniform()) if season is None else season
    materials = material_table(rng)
    row0, col0 = (2 * int(v) for v in rng.integers(0, 500_000, 2))
    margin = PAD_PX + 1
    x = (np.arange(col0 - margin, col0 + size_px + margin, dtype=np.float64)[None, :] + 0.5) * PIXEL_M
    y = -(np.arange(row0 - margin, row0 + size_px + margin, dtype=np.float64)[:, None] + 0.5) * PIXEL_M
    cover = Landscape(seed, biome).cover(x, y)

    def acquire(visit: int, phase: float) -> FloatArray:
        light = Light(float(rng.uniform(120, 200)), float(rng.uniform(25, 65)), float(rng.uniform(0.2, 0.8)))
        air = haze
        if air is None:
            air = float(rng.uniform(0.02, 0.08) if rng.uniform() < 0.2 else rng.uniform(-0.004, 0.02))
        # Processors differ: sun and view angle (BRDF) move all bands together, aerosol and gas models move each.
        gain = np.exp(rng.normal(0, 0.05) + rng.normal(0, 0.02, (10, 1, 1))).astype(np.float32)
        # Adjacency: scattering blends in the surroundings, here the chip's mean, most at short wavelengths.
        blend = np.float32(rng.uniform(0, 0.25)) * HAZE_SPECTRUM[:, None, None]
        ground = surface_reflectance(cover, biome, materials, phase, light)
        natives = native_bands(ground, row0, col0, 2 * seed + visit)
        image = np.stack([a if band.gsd_m == 10 else upsample_20m(a) for a, band in zip(natives, BANDS, strict=True)])
        around = image[:, ::4, ::4].mean((1, 2))[:, None, None]
        hazy = np.float32(air) * HAZE_SPECTRUM[:, None, None]
        image *= gain * (np.float32(1.0) - blend) * (np.float32(1.0) - hazy)
        image += gain * blend * around * (np.float32(1.0) - hazy) + hazy
        return image

    image = acquire(0, season)
    if rng.uniform() < COMPOSITE_SHARE:
        # Part of the pixels come from a second date, part from the mean of both, as in a composite around clouds.
        other = acquire(1, season + float(rng.normal(0, 0.06)))
        inner = slice(margin, -margin)
        clouds = fractal_noise(seed, x[:, inner], y[inner], 900.0, 4) + np.float32(rng.normal(0, 0.7))
        image = np.where(clouds > 0.5, other, np.where(clouds < -0.5, image, (image + other) * np.float32(0.5)))
    if offset_error is None:
        offset_error = float(0.1 if rng.uniform() < 0.04 else rng.normal(0, 0.004))
    code = cover.code[PAD_PX:-PAD_PX, PAD_PX:-PAD_PX]
    return np.ascontiguousarray(image + np.float32(offset_error), np.float32), np.ascontiguousarray(code)
