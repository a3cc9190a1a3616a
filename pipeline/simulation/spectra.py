"""Surface reflectance of what a landscape is made of: materials, their variation, and plants through the seasons.

Material spectra are rounded means in the range of published libraries (USGS splib07, ECOSTRESS, LUCAS-based Sentinel-2
statistics), sampled at the ten bands of :data:`spex_core.bands.SENTINEL2_BANDS`. A pixel is a mixture of three of them,
times a brightness; worlds, parcels and pixels each vary them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

# B02   B03   B04   B05   B06   B07   B08   B8A   B11   B12
_LIBRARY: dict[str, tuple[float, ...]] = {
    "soil_dark": (0.045, 0.060, 0.077, 0.092, 0.103, 0.113, 0.123, 0.133, 0.190, 0.155),
    "soil_brown": (0.068, 0.098, 0.135, 0.160, 0.178, 0.195, 0.210, 0.225, 0.300, 0.250),
    "soil_light": (0.120, 0.165, 0.215, 0.245, 0.265, 0.280, 0.295, 0.310, 0.400, 0.350),
    "sand": (0.200, 0.270, 0.330, 0.360, 0.375, 0.390, 0.410, 0.420, 0.500, 0.465),
    "sand_red": (0.080, 0.130, 0.225, 0.270, 0.290, 0.310, 0.330, 0.340, 0.430, 0.370),
    "rock_grey": (0.120, 0.135, 0.150, 0.160, 0.165, 0.170, 0.175, 0.180, 0.210, 0.190),
    "rock_dark": (0.060, 0.070, 0.080, 0.085, 0.090, 0.092, 0.095, 0.100, 0.130, 0.120),
    "rock_light": (0.215, 0.255, 0.285, 0.295, 0.305, 0.310, 0.315, 0.320, 0.355, 0.325),
    "rock_brown": (0.088, 0.112, 0.148, 0.163, 0.173, 0.180, 0.188, 0.196, 0.250, 0.232),
    "gravel": (0.125, 0.145, 0.165, 0.174, 0.182, 0.188, 0.195, 0.200, 0.228, 0.205),
    "crop_green": (0.025, 0.055, 0.030, 0.085, 0.300, 0.400, 0.430, 0.450, 0.190, 0.090),
    "crop_flower": (0.045, 0.135, 0.115, 0.175, 0.350, 0.430, 0.460, 0.480, 0.215, 0.115),
    "crop_ripe": (0.070, 0.110, 0.150, 0.190, 0.230, 0.260, 0.290, 0.310, 0.340, 0.230),
    "stubble": (0.090, 0.130, 0.170, 0.205, 0.235, 0.260, 0.280, 0.300, 0.380, 0.300),
    "grass_green": (0.032, 0.068, 0.045, 0.105, 0.265, 0.335, 0.355, 0.375, 0.225, 0.115),
    "grass_lush": (0.024, 0.064, 0.033, 0.106, 0.360, 0.455, 0.485, 0.505, 0.235, 0.108),
    "grass_dry": (0.060, 0.090, 0.115, 0.150, 0.200, 0.230, 0.250, 0.270, 0.320, 0.220),
    "broadleaf": (0.020, 0.045, 0.026, 0.067, 0.235, 0.315, 0.340, 0.360, 0.165, 0.075),
    "broadleaf_fresh": (0.022, 0.057, 0.030, 0.086, 0.320, 0.430, 0.460, 0.480, 0.200, 0.090),
    "twigs": (0.035, 0.050, 0.058, 0.078, 0.110, 0.130, 0.148, 0.163, 0.190, 0.120),
    "conifer": (0.015, 0.028, 0.019, 0.038, 0.118, 0.152, 0.165, 0.178, 0.077, 0.036),
    "evergreen": (0.020, 0.040, 0.023, 0.057, 0.190, 0.260, 0.280, 0.295, 0.140, 0.060),
    "shrub_green": (0.030, 0.053, 0.046, 0.085, 0.165, 0.205, 0.225, 0.240, 0.185, 0.105),
    "shrub_dry": (0.050, 0.073, 0.085, 0.118, 0.152, 0.175, 0.192, 0.207, 0.250, 0.175),
    "reed_green": (0.027, 0.050, 0.037, 0.075, 0.165, 0.205, 0.220, 0.232, 0.112, 0.056),
    "reed_dry": (0.045, 0.065, 0.080, 0.105, 0.130, 0.148, 0.163, 0.175, 0.170, 0.108),
    "mud": (0.060, 0.080, 0.092, 0.100, 0.102, 0.105, 0.106, 0.108, 0.090, 0.060),
    "water_clear": (0.022, 0.019, 0.010, 0.008, 0.006, 0.005, 0.005, 0.004, 0.002, 0.002),
    "water_green": (0.030, 0.050, 0.028, 0.032, 0.021, 0.019, 0.017, 0.015, 0.006, 0.004),
    "water_turbid": (0.070, 0.102, 0.105, 0.098, 0.065, 0.060, 0.055, 0.048, 0.013, 0.009),
    "roof_tile": (0.070, 0.100, 0.175, 0.205, 0.222, 0.238, 0.250, 0.270, 0.320, 0.290),
    "roof_grey": (0.115, 0.130, 0.140, 0.146, 0.154, 0.160, 0.168, 0.175, 0.195, 0.182),
    "roof_bright": (0.310, 0.340, 0.360, 0.370, 0.380, 0.390, 0.400, 0.405, 0.410, 0.370),
    "asphalt": (0.075, 0.085, 0.093, 0.098, 0.104, 0.108, 0.114, 0.118, 0.145, 0.135),
    "concrete": (0.165, 0.195, 0.220, 0.230, 0.240, 0.246, 0.252, 0.260, 0.290, 0.270),
    "shade": (0.010, 0.011, 0.009, 0.012, 0.022, 0.027, 0.029, 0.031, 0.016, 0.009),
    "snow_fresh": (0.900, 0.910, 0.900, 0.905, 0.895, 0.880, 0.865, 0.850, 0.120, 0.105),
    "snow_old": (0.620, 0.615, 0.600, 0.600, 0.585, 0.560, 0.540, 0.510, 0.065, 0.055),
    "ice": (0.490, 0.490, 0.440, 0.400, 0.360, 0.320, 0.290, 0.255, 0.032, 0.022),
}
MATERIALS: tuple[str, ...] = tuple(_LIBRARY)
MATERIAL: dict[str, int] = {name: i for i, name in enumerate(MATERIALS)}
"""Material name → row of :func:`material_table`."""

_SNOW_AND_WATER = tuple(n for n in MATERIALS if n.startswith(("snow", "ice", "water")))

# Path radiance left over by an imperfect atmospheric correction, relative to B02 (falls as wavelength^-1.5 or so).
HAZE_SPECTRUM = np.asarray([1.0, 0.76, 0.58, 0.52, 0.47, 0.42, 0.38, 0.36, 0.12, 0.06], np.float32)


def material_table(rng: np.random.Generator, spread: float = 1.0) -> FloatArray:
    """One world's materials: the library varied by brightness (about 12 %), spectral slope and band.

    Args:
        rng: Source of the variation.
        spread: 0 gives the library itself; 1 the natural variation between places.

    Returns:
        Surface reflectance, float32 ``[materials, 10]``.
    """
    table = np.asarray([_LIBRARY[name] for name in MATERIALS])
    n = len(MATERIALS)
    deviation = np.where([name in _SNOW_AND_WATER for name in MATERIALS], 0.06, 0.12)[:, None]
    ramp = np.linspace(-1.0, 1.0, 10)[None, :]
    change = (
        rng.normal(size=(n, 1)) * deviation
        + rng.normal(size=(n, 1)) * 0.05 * ramp
        + rng.normal(size=(n, 1)) * 0.04 * (ramp**2 - 0.5)
        + rng.normal(size=(n, 10)) * 0.025
    )
    varied: FloatArray = np.clip(table * np.exp(spread * change), 0.001, 0.98).astype(np.float32)
    return varied


def bump(season: FloatArray | float, start: float, full: float, fading: float, end: float) -> FloatArray:
    """Trapezoid over the year: 0 outside ``start..end``, 1 within ``full..fading``; seasons wrap at 1."""
    s = np.asarray(season, np.float32)
    s = s - np.floor(s)
    best = np.zeros_like(s)
    for turn in (-1.0, 0.0, 1.0):
        rise = (s + np.float32(turn) - np.float32(start)) / np.float32(full - start)
        fall = (np.float32(end) - s - np.float32(turn)) / np.float32(end - fading)
        best = np.maximum(best, np.clip(np.minimum(rise, fall), 0.0, 1.0))
    return best


def crop_state(crop: npt.NDArray[np.int64], season: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Ground cover of crops.

    Args:
        crop: 0 winter cereal, 1 oilseed rape, 2 maize, 3 root or vegetable crop, 4 ley or alfalfa, 5 fallow.
        season: Year phase of each parcel, 0 = midwinter, 0.5 = midsummer.

    Returns:
        Shares in 0..1 of green canopy, of ripe or dead canopy, and (of the green) in flower. The rest is soil.
    """
    green_by_crop = np.stack(
        [
            np.maximum(bump(season, 0.14, 0.28, 0.42, 0.52), np.float32(0.35) * bump(season, 0.84, 0.95, 1.12, 1.20)),
            np.maximum(bump(season, 0.12, 0.24, 0.42, 0.50), np.float32(0.60) * bump(season, 0.70, 0.82, 1.10, 1.14)),
            bump(season, 0.40, 0.52, 0.68, 0.78),
            bump(season, 0.36, 0.50, 0.72, 0.82),
            np.float32(0.45) + np.float32(0.5) * bump(season, 0.18, 0.28, 0.80, 0.92),
            np.float32(0.18) + np.float32(0.3) * bump(season, 0.25, 0.38, 0.60, 0.85),
        ]
    )
    ripe_by_crop = np.stack(
        [
            bump(season, 0.44, 0.52, 0.55, 0.72),
            bump(season, 0.44, 0.50, 0.53, 0.66),
            bump(season, 0.70, 0.78, 0.82, 0.98) * np.float32(0.8),
            bump(season, 0.76, 0.82, 0.84, 0.90) * np.float32(0.3),
            np.full_like(season, 0.08),
            np.full_like(season, 0.25),
        ]
    )
    rows = np.arange(season.size).reshape(season.shape)
    green = green_by_crop.reshape(6, -1)[crop, rows]
    ripe = np.minimum(ripe_by_crop.reshape(6, -1)[crop, rows], np.float32(1.0) - green)
    flower = np.where(crop == 1, bump(season, 0.28, 0.32, 0.36, 0.40), np.float32(0.0))
    return green, ripe, flower


def add_haze(reflectance: FloatArray, amount: float, offset: float = 0.0) -> FloatArray:
    """Adds residual haze (B02 reflectance of a black surface) and a flat offset to ``[10, H, W]`` reflectance."""
    haze = (np.float32(amount) * HAZE_SPECTRUM)[:, None, None]
    hazy: FloatArray = reflectance * (np.float32(1.0) - haze) + haze + np.float32(offset)
    return hazy
