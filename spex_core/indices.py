"""Spectral indices of Sentinel-2 surface reflectance: pure functions on numpy arrays and torch tensors alike.

All are normalised differences in [-1, 1] except BSI, which is bounded the same way. Sources: NDVI Rouse et al. 1974;
NDWI McFeeters 1996; MNDWI Xu 2006; NDBI Zha et al. 2003; NDSI Hall et al. 1995; BSI Rikimaru et al. 2002;
NDMI Gao 1996 (as used for Sentinel-2 B8A/B11).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from spex_core.bands import BAND_INDEX

SPECTRAL_INDICES: tuple[str, ...] = ("ndvi", "ndwi", "mndwi", "ndbi", "ndmi", "ndsi", "bsi", "brightness")
"""Names accepted by :func:`spectral_index`, in the order of every stored index layer."""

INDEX_LABELS: dict[str, str] = {
    "ndvi": "NDVI",
    "ndwi": "NDWI",
    "mndwi": "MNDWI",
    "ndbi": "NDBI",
    "ndmi": "NDMI",
    "ndsi": "NDSI",
    "bsi": "BSI",
    "brightness": "visible brightness",
}

DIFFERENCE_BANDS: dict[str, tuple[str, str]] = {
    "ndvi": ("B08", "B04"),
    "ndwi": ("B03", "B08"),
    "mndwi": ("B03", "B11"),
    "ndbi": ("B11", "B08"),
    "ndmi": ("B8A", "B11"),
    "ndsi": ("B03", "B11"),
}
"""The normalised differences: (first - second) / (first + second)."""
_FLOOR = 1e-3  # reflectance; keeps a ratio of two dark pixels finite


def _ratio(numerator: Any, denominator: Any) -> Any:
    # Atmospheric correction can leave slightly negative reflectance over dark water: floor the sum, clip the result.
    return (numerator / denominator.clip(_FLOOR, None)).clip(-1.0, 1.0)


def spectral_index(name: str, reflectance: Any, band_axis: int = -3) -> Any:
    """Computes one spectral index.

    Args:
        name: One of :data:`SPECTRAL_INDICES`. ``"brightness"`` is the mean visible reflectance (B02, B03, B04).
        reflectance: Surface reflectance, float array or tensor with the ten bands of
            :data:`spex_core.bands.SENTINEL2_BANDS` along ``band_axis`` (default ``[..., 10, H, W]``).
        band_axis: Negative axis that holds the bands.

    Returns:
        Array or tensor of the same kind without the band axis; unitless (brightness: reflectance).

    Raises:
        KeyError: The name is not a known index.
    """

    def band(band_name: str) -> Any:
        selector = (..., BAND_INDEX[band_name]) + (slice(None),) * (-band_axis - 1)
        return reflectance[selector]

    if name == "brightness":
        return (band("B02") + band("B03") + band("B04")) / 3.0
    if name == "bsi":
        bright = band("B11") + band("B04")
        green = band("B08") + band("B02")
        return _ratio(bright - green, bright + green)
    first, second = (band(b) for b in DIFFERENCE_BANDS[name])
    return _ratio(first - second, first + second)


def with_either_near_infrared(reflectance: Any) -> Any:
    """B08 and B8A lie 32 nm apart: where one is missing (NaN) the other stands in, so that indices can be formed.

    Args:
        reflectance: Float array or tensor ``[..., 10, H, W]``.

    Returns:
        A copy of the same kind.
    """
    slots = [(..., BAND_INDEX[name], slice(None), slice(None)) for name in ("B08", "B8A")]
    wide, narrow = (reflectance[slot] for slot in slots)
    numpy_like = isinstance(reflectance, np.ndarray)
    filled = reflectance.copy() if numpy_like else reflectance.clone()
    for slot, own, other in ((slots[0], wide, narrow), (slots[1], narrow, wide)):
        missing = own != own  # NaN alone differs from itself
        filled[slot] = np.where(missing, other, own) if numpy_like else other.where(missing, own)
    return filled
