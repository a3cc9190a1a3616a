"""What the cloud network is given and what it says, for those who have no need of the network itself (or of torch)."""

from __future__ import annotations

from collections.abc import Sequence

CHANNELS: tuple[str, ...] = ("blue", "green", "red", "nir", "swir16", "swir22")
"""STAC ``eo`` common names of the bands that the network takes, in channel order."""

CLOUD_CLASSES: tuple[str, ...] = ("clear", "thick cloud", "thin cloud", "shadow", "snow")
"""What a pixel can be, by code."""

CHECKPOINT_TYPE = "spex-clouds"
"""``model_type`` of its checkpoints."""

CLEAR, THICK, THIN, SHADOW, SNOW = range(len(CLOUD_CLASSES))

_STANDING_IN: dict[str, tuple[str, ...]] = {
    "blue": ("B02",), "green": ("B03",), "red": ("B04", "B05"), "nir": ("B8A", "B08", "B07", "B06"),
    "swir16": ("B11",), "swir22": ("B12",),
}  # fmt: skip
"""Sentinel-2 bands for each channel, the preferred one first: B8A has the 20 m pixels that the network is asked on."""


def cloud_bands(available: Sequence[str]) -> tuple[str | None, ...]:
    """Sentinel-2 band for each of :data:`CHANNELS`, None where none of a run's bands will do."""
    return tuple(next((name for name in names if name in available), None) for names in _STANDING_IN.values())
