"""The darkest pixels tell of an offset that was forgotten or taken away twice, and of nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.imagery.dark_pixels import check_dark_pixels
from spex_core.bands import BAND_INDEX, SENTINEL2_BANDS


def sample(**reflectance: float) -> np.ndarray:
    """[10, 4000] with a little noise; bands not given are 0.2."""
    rng = np.random.default_rng(1)
    values = np.full((10, 4000), 0.2, np.float32) + rng.normal(0, 0.003, (10, 4000)).astype(np.float32)
    for name, value in reflectance.items():
        values[BAND_INDEX[name]] += value - 0.2
    return values


VEGETATION = {"B02": 0.03, "B03": 0.06, "B04": 0.03, "B05": 0.09, "B08": 0.35, "B8A": 0.36, "B11": 0.16, "B12": 0.08}
WATER = dict.fromkeys(SENTINEL2_BANDS, 0.02) | {"B02": 0.06, "B03": 0.05}
DESERT = dict.fromkeys(SENTINEL2_BANDS, 0.3) | {"B02": 0.15, "B03": 0.2}


@pytest.mark.parametrize("cover", [VEGETATION, WATER, DESERT])
def test_right_offsets_raise_no_alarm(cover: dict[str, float]) -> None:
    assert check_dark_pixels(sample(**cover)) is None


@pytest.mark.parametrize("cover", [VEGETATION, WATER])
def test_a_forgotten_offset_is_noticed(cover: dict[str, float]) -> None:
    assert "seems to be missing" in str(check_dark_pixels(sample(**cover) + np.float32(0.1)))


@pytest.mark.parametrize("cover", [VEGETATION, WATER])
def test_a_doubled_offset_is_noticed(cover: dict[str, float]) -> None:
    assert "subtracted twice" in str(check_dark_pixels(sample(**cover) - np.float32(0.1)))


def test_small_or_empty_samples_say_nothing() -> None:
    assert check_dark_pixels(sample(**WATER)[:, :100] + np.float32(0.1)) is None
    assert check_dark_pixels(np.full((10, 4000), np.nan, np.float32)) is None
