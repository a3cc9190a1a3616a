"""What a mean spectral index says about a class, in words: one table for the writer of sentences and for their check.

The limits are common readings of the indices (NDVI: Rouse et al. 1974; MNDWI: Xu 2006; NDBI: Zha et al. 2003; NDSI:
Hall et al. 1995; BSI: Rikimaru et al. 2002; NDMI: Gao 1996), kept coarse on purpose: they describe a mean over many
pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """``phrase`` holds where ``low <= index < high``."""

    index: str
    low: float
    high: float
    phrase: str

    def holds(self, value: float) -> bool:
        """Whether a mean index supports the phrase."""
        return self.low <= value < self.high


def _scale(index: str, *steps: tuple[float, str]) -> tuple[Reading, ...]:
    """Readings from the highest step down; the last one is open below."""
    lows = [low for low, _ in steps]
    highs = [math.inf, *lows[:-1]]
    return tuple(Reading(index, low, high, phrase) for (low, phrase), high in zip(steps, highs, strict=True))


_OPEN = -math.inf
_GREENNESS = _scale("ndvi", (0.6, "dense green cover"), (0.3, "moderate green cover"), (_OPEN, "little green cover"))

# Words that occur in a class's name or noun -> its readings. Order matters: the first word that occurs decides.
_READINGS: tuple[tuple[tuple[str, ...], tuple[Reading, ...]], ...] = (
    (
        ("wetland", "marsh", "bog", "mangrove", "swamp"),
        _scale("ndmi", (0.2, "wet vegetation"), (0.0, "moist vegetation"), (_OPEN, "drying vegetation")),
    ),
    (
        ("crop", "agri", "arable", "field"),
        _scale(
            "ndvi",
            (0.55, "actively growing"),
            (0.3, "moderate growth"),
            (_OPEN, "little green, as before emergence or after harvest"),
        ),
    ),
    (
        ("tree", "forest", "wood"),
        _scale("ndvi", (0.7, "dense green canopy"), (0.5, "fairly dense canopy"), (_OPEN, "sparse or leafless canopy")),
    ),
    (
        ("grass", "pasture", "meadow", "shrub", "heath"),
        _scale("ndvi", (0.6, "lush"), (0.35, "moderately green"), (_OPEN, "dry or sparse")),
    ),
    (
        ("water", "sea", "lake", "river", "ocean"),
        _scale("mndwi", (0.3, "open surface"), (0.0, "shallow, turbid or mixed"), (_OPEN, "weak signal, mixed pixels")),
    ),
    (
        ("built", "urban", "settlement", "city", "town"),
        _scale(
            "ndbi",
            (0.0, "mostly sealed surfaces"),
            (-0.15, "sealed surfaces mixed with green"),
            (_OPEN, "much green between buildings"),
        ),
    ),
    (
        ("snow", "ice", "glacier"),
        _scale("ndsi", (0.4, "bright frozen cover"), (_OPEN, "thin or broken cover")),
    ),
    (
        ("bare", "soil", "sand", "rock", "desert"),
        _scale("bsi", (0.1, "exposed mineral surface"), (0.0, "partly covered surface"), (_OPEN, "plants mixed in")),
    ),
)


def readings_for(name: str, noun: str) -> tuple[Reading, ...]:
    """Readings that suit a class; greenness (NDVI) where its words are not known."""
    words = f"{name} {noun}".lower()
    return next((readings for keys, readings in _READINGS if any(key in words for key in keys)), _GREENNESS)


def reading_of(name: str, noun: str, indices: Mapping[str, float]) -> tuple[str, float, str] | None:
    """Index, mean value and what it says of a class, by its first reading that holds; None where none is measured."""
    for reading in readings_for(name, noun):
        value = indices.get(reading.index)
        if value is not None and reading.holds(value):
            return reading.index, value, reading.phrase
    return None


ALL_READINGS: tuple[Reading, ...] = (*(r for _, readings in _READINGS for r in readings), *_GREENNESS)
