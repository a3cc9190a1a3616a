"""The coarser composite that words are asked with: means of what was measured, whatever it is read back with."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.mapstore.seen_image import SEEN_NODATA, SEEN_SCALE, reflectance_of, seen_image


@pytest.mark.parametrize("shape", [(8, 8), (7, 10), (2, 5)])
def test_means_leave_out_what_nobody_saw(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape[0])
    pixels = rng.uniform(-0.01, 1.2, (3, *shape)).astype(np.float32)
    pixels[:, rng.random(shape) < 0.4] = np.nan
    pixels[:, :2, :2] = np.nan
    seen = seen_image(pixels)
    assert seen.shape == (3, -(-shape[0] // 2), -(-shape[1] // 2))
    for band in range(3):
        for row, col in np.ndindex(*seen.shape[1:]):
            block = pixels[band, 2 * row : 2 * row + 2, 2 * col : 2 * col + 2]
            known = block[np.isfinite(block)]
            if known.size:
                assert seen[band, row, col] == pytest.approx(known.mean() * SEEN_SCALE, abs=0.51)
            else:
                assert seen[band, row, col] == SEEN_NODATA


def test_windows_that_begin_at_a_block_give_the_same_values() -> None:
    rng = np.random.default_rng(3)
    pixels = rng.uniform(0, 1, (10, 32, 48)).astype(np.float32)
    pixels[:, 5:9, 3:30] = np.nan
    assert np.array_equal(seen_image(pixels)[:, 4:9, 7:20], seen_image(pixels[:, 8:18, 14:40]))


def test_coarser_means_are_of_what_was_measured() -> None:
    seen = np.full((1, 4, 4), 2000, np.int16)
    seen[0, :2, :2] = [[SEEN_NODATA, 1000], [SEEN_NODATA, 3000]]
    seen[0, 2:, 2:] = SEEN_NODATA
    found = reflectance_of(seen, 2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[[0.2, 0.2], [0.2, np.nan]]], rtol=1e-6)
