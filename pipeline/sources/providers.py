"""The one table of what each provider calls things: API address, collection, and asset keys per band.

Sources: Earth Search v1 (Element 84), Planetary Computer STAC API (Microsoft), Copernicus Data Space STAC (ESA);
all three serve Sentinel-2 Level-2A. Bands are chosen by asset key and never by ``eo`` common name alone, because
``rededge`` names three bands on Planetary Computer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.records.scene import SCL
from pipeline.settings.run_file import Provider
from spex_core.bands import BANDS, SENTINEL2_BANDS

READ_ASSETS: tuple[str, ...] = (*SENTINEL2_BANDS, SCL)
"""What a scene must have by default: the ten bands and the scene classification."""

NATIVE_GSD_M: dict[str, float] = {**{band.name: float(band.gsd_m) for band in BANDS}, SCL: 20.0}
"""Pixel size in the Sentinel-2 product, metres; used where an item does not say."""


@dataclass(frozen=True)
class ProviderDefaults:
    """Where a provider is found when the run file does not say."""

    url: str | None
    collection: str | None


PROVIDERS: dict[Provider, ProviderDefaults] = {
    "earth-search": ProviderDefaults("https://earth-search.aws.element84.com/v1", "sentinel-2-l2a"),
    "planetary-computer": ProviderDefaults("https://planetarycomputer.microsoft.com/api/stac/v1", "sentinel-2-l2a"),
    "cdse": ProviderDefaults("https://stac.dataspace.copernicus.eu/v1", "sentinel-2-l2a"),
    "generic": ProviderDefaults(None, None),
}

# Earth Search v1 speaks of colours, Planetary Computer (and Earth Search v0) of bands, Copernicus Data Space of bands
# at a resolution; the first key that an item has is taken, so the native resolution stands first.
_EARTH_SEARCH: dict[str, str] = {
    "B02": "blue",
    "B03": "green",
    "B04": "red",
    "B05": "rededge1",
    "B06": "rededge2",
    "B07": "rededge3",
    "B08": "nir",
    "B8A": "nir08",
    "B11": "swir16",
    "B12": "swir22",
    SCL: "scl",
}

ASSET_KEYS: dict[str, tuple[str, ...]] = {
    name: (
        name,
        _EARTH_SEARCH[name],
        f"{name}_{NATIVE_GSD_M[name]:.0f}m",
        *((f"{name}_20m",) if NATIVE_GSD_M[name] < 20.0 else ()),
        f"{_EARTH_SEARCH[name]}-jp2",
    )
    for name in READ_ASSETS
}
"""Band name → asset keys, best first; compared without regard to case."""


def find_assets(
    assets: Mapping[str, Any], bands: Sequence[str] = SENTINEL2_BANDS
) -> tuple[dict[str, tuple[str, Mapping[str, Any]]], tuple[str, ...]]:
    """Finds the raster of each band among an item's assets.

    Args:
        assets: The ``assets`` member of a STAC item.
        bands: Sentinel-2 bands that are wanted, beside the scene classification.

    Returns:
        Band name → (asset key, asset), and the band names that are missing, in band order.
    """
    usable = {
        key.casefold(): (key, asset)
        for key, asset in reversed(list(assets.items()))
        if isinstance(asset, Mapping) and isinstance(asset.get("href"), str) and asset["href"]
    }
    by_band_name: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for key, asset in usable.values():
        names = band_names(asset)
        if len(names) == 1:
            by_band_name.setdefault(names[0].casefold(), (key, asset))
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    wanted = (*bands, SCL)
    for name in wanted:
        keyed = next((usable[k.casefold()] for k in ASSET_KEYS[name] if k.casefold() in usable), None)
        hit = keyed or by_band_name.get(name.casefold())
        if hit is not None:
            found[name] = hit
    return found, tuple(name for name in wanted if name not in found)


def band_names(asset: Mapping[str, Any]) -> list[str]:
    """``name`` of each band that an asset declares, in STAC 1.1 ``bands`` or the older ``eo:bands``."""
    for field in ("bands", "eo:bands"):
        bands = asset.get(field)
        if isinstance(bands, list) and bands:
            return [str(b["name"]) for b in bands if isinstance(b, Mapping) and isinstance(b.get("name"), str)]
    return []
