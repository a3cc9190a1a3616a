"""The one table of bands: order, wavelength and native ground sampling distance.

Source: Sentinel-2 User Handbook (ESA, 2015) and the S2A spectral response functions, central wavelengths in nm;
Landsat 8 OLI: USGS Landsat 8 Data Users Handbook; Landsat 5 TM and 7 ETM+: middles of the bands in USGS' table of band
designations. Every other module takes its band order from here (rule 8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spex_core.errors import ModelInputError


@dataclass(frozen=True)
class Band:
    """One spectral band of a sensor."""

    name: str
    """The agency's band name, e.g. ``"B8A"``."""
    common_name: str
    """STAC ``eo`` common name; **not unique** (B05, B06, B07 share ``rededge`` on some catalogs)."""
    wavelength_nm: float
    """Central wavelength in nanometres."""
    gsd_m: int
    """Native ground sampling distance in metres."""


BANDS: tuple[Band, ...] = (
    Band("B02", "blue", 492.4, 10),
    Band("B03", "green", 559.8, 10),
    Band("B04", "red", 664.6, 10),
    Band("B05", "rededge071", 704.1, 20),
    Band("B06", "rededge075", 740.5, 20),
    Band("B07", "rededge078", 782.8, 20),
    Band("B08", "nir", 832.8, 10),
    Band("B8A", "nir08", 864.7, 20),
    Band("B11", "swir16", 1613.7, 20),
    Band("B12", "swir22", 2202.4, 20),
)
"""The ten 10 m and 20 m bands, in the order used everywhere."""

SENTINEL2_BANDS: tuple[str, ...] = tuple(band.name for band in BANDS)
"""Band names in channel order: ``B02 B03 B04 B05 B06 B07 B08 B8A B11 B12``."""

BAND_INDEX: dict[str, int] = {name: i for i, name in enumerate(SENTINEL2_BANDS)}
"""Band name → channel index."""

LANDSAT_BANDS: tuple[Band, ...] = (
    Band("OLI2", "blue", 482.0, 30),
    Band("OLI3", "green", 561.4, 30),
    Band("OLI4", "red", 654.6, 30),
    Band("OLI5", "nir08", 864.7, 30),
    Band("OLI6", "swir16", 1608.9, 30),
    Band("OLI7", "swir22", 2200.7, 30),
)
"""Landsat 8/9 OLI, also the bands that both halves of NASA's Harmonized Landsat Sentinel-2 (HLS) share."""

LANDSAT_ETM_BANDS: tuple[Band, ...] = (
    Band("ETM1", "blue", 485.0, 30),
    Band("ETM2", "green", 560.0, 30),
    Band("ETM3", "red", 660.0, 30),
    Band("ETM4", "nir", 835.0, 30),
    Band("ETM5", "swir16", 1650.0, 30),
    Band("ETM7", "swir22", 2220.0, 30),
)
"""Landsat 7 ETM+."""

LANDSAT_TM_BANDS: tuple[Band, ...] = (
    Band("TM1", "blue", 485.0, 30),
    Band("TM2", "green", 560.0, 30),
    Band("TM3", "red", 660.0, 30),
    Band("TM4", "nir", 830.0, 30),
    Band("TM5", "swir16", 1650.0, 30),
    Band("TM7", "swir22", 2215.0, 30),
)
"""Landsat 4/5 TM."""

BAND_SETS: dict[str, tuple[Band, ...]] = {
    "sentinel-2": BANDS,
    "rgb-nir": tuple(BANDS[BAND_INDEX[name]] for name in ("B02", "B03", "B04", "B08")),
    "hls": tuple(BANDS[BAND_INDEX[name]] for name in ("B02", "B03", "B04", "B8A", "B11", "B12")),
    "landsat": LANDSAT_BANDS,
}
"""Band sets by name: ``hls`` are the six bands at Sentinel-2's wavelengths, ``landsat`` the same six at Landsat's."""

LARGEST_SHIFT_NM = 100.0
"""A band farther than this from every Sentinel-2 band has no place in the model."""


def band_slots(bands: Sequence[Band | str]) -> tuple[tuple[int, ...], tuple[Band, ...]]:
    """Finds the Sentinel-2 channel that each band of another band set stands in for: the nearest in wavelength.

    Args:
        bands: Bands, or names of Sentinel-2 bands, in channel order.

    Returns:
        Channel index in :data:`SENTINEL2_BANDS` of each, and the bands themselves.

    Raises:
        ModelInputError: An unknown name, a wavelength far from all of Sentinel-2's, or two bands for one channel.
    """
    found: list[Band] = []
    for band in bands:
        if isinstance(band, str) and band not in BAND_INDEX:
            raise ModelInputError(f"unknown band {band!r}; name bands of Sentinel-2 ({' '.join(SENTINEL2_BANDS)})")
        found.append(BANDS[BAND_INDEX[band]] if isinstance(band, str) else band)
    slots: list[int] = []
    for band in found:
        exact = [i for i, known in enumerate(BANDS) if known.name == band.name]
        shifts = [abs(known.wavelength_nm - band.wavelength_nm) for known in BANDS]
        slot = exact[0] if exact else shifts.index(min(shifts))
        if shifts[slot] > LARGEST_SHIFT_NM:
            raise ModelInputError(f"band {band.name} at {band.wavelength_nm:g} nm is near no band of Sentinel-2")
        if slot in slots:
            raise ModelInputError(
                f"bands {found[slots.index(slot)].name} and {band.name} both stand for {BANDS[slot].name}"
            )
        slots.append(slot)
    if not slots:
        raise ModelInputError("no bands given")
    return tuple(slots), tuple(found)
