"""Clouds, their shadows and thin cirrus of one acquisition, as fields over the world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.simulation.noise import FloatArray, fractal_noise, smooth_noise

SCL_NODATA, SCL_SATURATED, SCL_DARK, SCL_SHADOW, SCL_VEGETATION, SCL_BARE = 0, 1, 2, 3, 4, 5
SCL_WATER, SCL_UNCLASSIFIED, SCL_CLOUD_MEDIUM, SCL_CLOUD_HIGH, SCL_CIRRUS, SCL_SNOW = 6, 7, 8, 9, 10, 11

# Tops of cumulus: bright and nearly white in the visible, darker where ice and droplets absorb (B11, B12).
_CLOUD = np.asarray([0.62, 0.60, 0.60, 0.61, 0.62, 0.63, 0.63, 0.63, 0.47, 0.37], np.float32)
_CIRRUS = np.asarray([0.42, 0.41, 0.40, 0.40, 0.41, 0.41, 0.41, 0.41, 0.24, 0.20], np.float32)
# Skylight that still reaches shaded ground, relative to full light: blue most.
_SKYLIGHT = np.asarray([0.46, 0.40, 0.35, 0.33, 0.31, 0.30, 0.29, 0.28, 0.20, 0.17], np.float32)

VISIBLE_COVER = 0.10
"""Opacity from which the scene classification calls a pixel cloud, shadow or cirrus."""


@dataclass(frozen=True)
class Clouds:
    """The sky of one acquisition.

    Args:
        seed: Where the clouds are.
        level: In deviations of the field: -9 cloudless, -1 scattered (about 15 %), 0 half, 1 mostly cloudy.
        size_m: Size of the cloud systems.
        base_m: Height above ground; throws the shadow ``base_m / tan(sun elevation)`` away.
        cirrus: Level of thin cirrus, the same way.
    """

    seed: int
    level: float = -9.0
    size_m: float = 3500.0
    base_m: float = 900.0
    cirrus: float = -9.0

    def _opacity(self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> FloatArray:
        field = fractal_noise(self.seed * 17 + 1, x, y, self.size_m, 5, 0.5) + np.float32(self.level)
        t = np.clip(field / np.float32(0.35), 0.0, 1.0)
        opacity: FloatArray = t * t * (np.float32(3.0) - np.float32(2.0) * t)
        return opacity

    def opacities(
        self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], sun_azimuth_deg: float, sun_elevation_deg: float
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Cloud, shadow and cirrus, each 0..1, float32 ``[H, W]``, for positions as in :mod:`.noise`."""
        nothing = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
        cloud = shadow = cirrus = nothing
        if self.level > -6:
            cloud = self._opacity(x, y)
            reach = self.base_m / np.tan(np.deg2rad(sun_elevation_deg))
            azimuth = np.deg2rad(sun_azimuth_deg)
            # The cloud that shades a pixel stands towards the sun.
            shadow = self._opacity(x + reach * np.sin(azimuth), y + reach * np.cos(azimuth))
        if self.cirrus > -6:
            veil = smooth_noise(self.seed * 17 + 2, x + 2.0 * y, y - 0.4 * x, 2.2 * self.size_m)
            veil = veil + np.float32(0.25) * smooth_noise(self.seed * 17 + 3, x * 0.3 + y, y - 0.3 * x, 900.0)
            cirrus = np.clip((veil + np.float32(self.cirrus)) * np.float32(0.35), 0.0, 0.4)
        return cloud, shadow, cirrus


def cover_with_clouds(
    ground: FloatArray, cloud: FloatArray, shadow: FloatArray, cirrus: FloatArray, texture: FloatArray
) -> FloatArray:
    """Ground ``[10, H, W]`` as seen from space below the given opacities ``[H, W]``; ``texture`` varies the tops."""
    one = np.float32(1.0)
    seen = np.empty_like(ground)
    tops = np.clip(one + np.float32(0.12) * texture, 0.6, 1.5) * (np.float32(0.75) + np.float32(0.35) * cloud)
    for band in range(ground.shape[0]):
        lit = ground[band] * (one - shadow * (one - _SKYLIGHT[band]))
        lit = lit * (one - cirrus) + cirrus * _CIRRUS[band]
        seen[band] = lit * (one - cloud) + cloud * tops * _CLOUD[band]
    return seen


def scene_classification(
    clear: FloatArray, cloud: FloatArray, shadow: FloatArray, cirrus: FloatArray
) -> npt.NDArray[np.uint8]:
    """The scene classification layer, by the logic of Sen2Cor's class table (not its code).

    Args:
        clear: Reflectance of the ground without clouds on the 20 m grid, ``[10, h, w]``.
        cloud: Opacity on the 20 m grid, ``[h, w]``; likewise ``shadow`` and ``cirrus``.

    Returns:
        uint8 ``[h, w]``: 2 dark, 3 shadow, 4 vegetation, 5 not vegetated, 6 water, 7 unclassified, 8 and 9 cloud,
        10 cirrus, 11 snow.
    """
    green, red, nir, swir = clear[1], clear[2], clear[6], clear[8]
    floor = np.float32(1e-3)
    ndvi = (nir - red) / np.maximum(nir + red, floor)
    ndsi = (green - swir) / np.maximum(green + swir, floor)
    scl = np.full(green.shape, SCL_UNCLASSIFIED, np.uint8)
    scl[ndvi > 0.40] = SCL_VEGETATION
    scl[ndvi < 0.30] = SCL_BARE
    scl[(nir < 0.07) & (swir < 0.06)] = SCL_DARK
    scl[(ndsi > 0.1) & (nir < 0.12) & (swir < 0.06)] = SCL_WATER
    scl[(ndsi > 0.4) & (green > 0.25)] = SCL_SNOW
    scl[cirrus > VISIBLE_COVER] = SCL_CIRRUS
    scl[shadow > VISIBLE_COVER] = SCL_SHADOW
    scl[cloud > VISIBLE_COVER] = SCL_CLOUD_MEDIUM
    scl[cloud > 0.65] = SCL_CLOUD_HIGH
    return scl
