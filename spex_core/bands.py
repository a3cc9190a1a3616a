"""The one table of Sentinel-2 bands: order, wavelength and native ground sampling distance.

Source: Sentinel-2 User Handbook (ESA, 2015) and the S2A spectral response functions, central wavelengths in nm.
Every other module takes its band order from here (DESIGN rule 8).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Band:
    """One spectral band of the MultiSpectral Instrument."""

    name: str
    """ESA band name, e.g. ``"B8A"``."""
    common_name: str
    """STAC ``eo`` common name; **not unique** (B05, B06, B07 share ``rededge`` on some catalogs)."""
    wavelength_nm: float
    """Central wavelength in nanometres."""
    gsd_m: int
    """Native ground sampling distance in metres (10 or 20)."""


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
