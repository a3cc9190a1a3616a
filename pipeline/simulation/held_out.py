"""Six worlds that are never trained on: what a model is judged on.

Chip seeds are divided: below 1,000 demos and tests, 1,000 to 9,999 these worlds, 10,000 and up training
(:func:`~pipeline.simulation.biomes.varied_biome`). Three of the climates are reserved as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.simulation.biomes import BIOMES, RESERVED_BIOMES, Biome
from pipeline.simulation.chips import simulate_chip

FIRST_TRAINING_SEED = 10_000
CHIPS_PER_WORLD = 1000
"""Seeds set aside for each world."""


@dataclass(frozen=True)
class HeldOutWorld:
    """One world, at one time of year, under one sky."""

    name: str
    biome: Biome
    first_seed: int
    season: float
    """Year phase, 0 midwinter, 0.5 midsummer of the local hemisphere."""
    haze: float
    """Residual B02 reflectance of the atmosphere."""

    def chip(self, index: int, size_px: int = 256) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """One chip as :func:`~pipeline.simulation.chips.simulate_chip` returns it.

        Raises:
            IndexError: ``index`` is negative, or past the seeds that belong to the world.
        """
        if not 0 <= index < CHIPS_PER_WORLD:
            raise IndexError(f"chip {index} of world {self.name}: it has chips 0 to {CHIPS_PER_WORLD - 1}")
        return simulate_chip(self.first_seed + index, size_px, biome=self.biome, season=self.season, haze=self.haze)


_PRESET = {biome.name: biome for biome in (*BIOMES, *RESERVED_BIOMES)}

HELD_OUT_WORLDS: tuple[HeldOutWorld, ...] = (
    HeldOutWorld("maritime-spring", _PRESET["maritime"], 2000, season=0.38, haze=0.008),
    HeldOutWorld("monsoon-dry-season", _PRESET["monsoon"], 3000, season=0.15, haze=0.035),
    HeldOutWorld("plateau-summer", _PRESET["plateau"], 4000, season=0.55, haze=0.0),
    HeldOutWorld("temperate-autumn", _PRESET["temperate"], 5000, season=0.76, haze=0.015),
    HeldOutWorld("mediterranean-late-summer", _PRESET["mediterranean"], 6000, season=0.66, haze=0.022),
    HeldOutWorld("alpine-late-spring", _PRESET["alpine"], 7000, season=0.42, haze=0.004),
)
"""``spex evaluate`` averages over them."""
