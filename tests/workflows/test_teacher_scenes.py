"""Pairs of L1C and L2A come out as reflectance whichever of the two still carries the baseline offset."""

from __future__ import annotations

import numpy as np
import pytest

from spex_core.augmentation import BOA_TO_TOA
from spex_core.bands import SENTINEL2_BANDS
from workflows.teacher_scenes import BASELINE_OFFSET, L1C_BANDS, L2A_BANDS, reflectance_of_pair

LAND = {
    "forest and water": (0.01, 0.3),
    "rain forest, no water": (0.03, 0.35),
    "farmland": (0.08, 0.4),
    "desert": (0.3, 0.6),
    "snow": (0.02, 0.06),  # beyond 1.5 µm; in the visible below
}
"""Least and most surface reflectance beyond 1.5 µm."""


def pair(land: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Digital numbers of surface and top of the atmosphere without any offset; a few pixels of L2A are below zero."""
    rng = np.random.default_rng(seed)
    low, high = LAND[land]
    shape = (40, 40)
    l2a, l1c = np.zeros((12, *shape), np.float32), np.zeros((13, *shape), np.float32)
    for number, band in enumerate(L2A_BANDS):
        bright = land == "snow" and band not in ("B11", "B12")
        l2a[number] = rng.uniform(0.6 if bright else low, 0.95 if bright else high, shape) * 10_000
    for number, band in enumerate(L1C_BANDS):
        if band == "B10":
            l1c[number] = rng.uniform(5, 60, shape)
            continue
        slope, offset = BOA_TO_TOA.get(band, (0.7, 0.07))
        l1c[number] = l2a[L2A_BANDS.index(band)] * slope + offset * 10_000
    l2a *= rng.uniform(0.9, 1.1)  # no scene has the average atmosphere
    l2a[:10, 0, :3] = -31
    return l2a, l1c


@pytest.mark.parametrize("land", sorted(LAND))
@pytest.mark.parametrize("surface_offset", [0, BASELINE_OFFSET])
@pytest.mark.parametrize("toa_offset", [0, BASELINE_OFFSET])
@pytest.mark.parametrize("seed", [0, 1])
def test_each_offset_is_found_by_itself(land: str, surface_offset: int, toa_offset: int, seed: int) -> None:
    l2a, l1c = pair(land, seed)
    surface, toa = reflectance_of_pair(l2a + surface_offset, l1c + toa_offset)
    np.testing.assert_allclose(surface, l2a[[L2A_BANDS.index(b) for b in SENTINEL2_BANDS]] / 10_000, atol=1e-5)
    np.testing.assert_allclose(toa, l1c[[L1C_BANDS.index(b) for b in SENTINEL2_BANDS]] / 10_000, atol=1e-5)


def test_one_number_below_the_offset_does_not_leave_it_in() -> None:
    """As in a chip whose darkest pixel has 969: no more than a correction that went too far."""
    l2a, l1c = pair("forest and water")
    raised = l2a + BASELINE_OFFSET
    assert raised.min() == 969
    assert reflectance_of_pair(raised, l1c)[0].min() < 0
