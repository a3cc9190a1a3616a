"""What the MultiSpectral Instrument makes of the ground: blur, native sampling and noise.

Arrays carry ``PAD_PX`` extra pixels on each side, an even number, so that 20 m pixels pair up with the 10 m grid.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.simulation.noise import FloatArray, hash_of, unit
from spex_core.bands import BANDS

PAD_PX = 10
"""Pixels needed around a window: the reach of the 20 m point-spread plus bilinear neighbours."""

PSF_SIGMA_10M_PX = 0.62
"""Gaussian point-spread of 10 m bands, px (MTF at Nyquist about 0.15, as Sentinel-2 MSI performance reports say)."""
PSF_SIGMA_20M_PX = 1.0
"""Of 20 m bands, in 10 m px; averaging over the 20 m pixel comes on top."""
NOISE = 0.0012
"""Noise equivalent reflectance per pixel (signal-to-noise ratio near 100 at reference radiance)."""


def native_bands(ground: FloatArray, row0: int, col0: int, noise_seed: int) -> list[FloatArray]:
    """Samples ground reflectance as each band's detector does.

    Args:
        ground: float32 ``[10, H + 2 * PAD_PX, W + 2 * PAD_PX]`` at 10 m; H and W even.
        row0: Absolute row of the first inner pixel (top to bottom, world lattice), even.
        col0: Absolute column of the first inner pixel, even.
        noise_seed: Identity of the acquisition.

    Returns:
        Per band, float32 ``[H, W]`` (10 m) or ``[H / 2 + 4, W / 2 + 4]`` (20 m, two pixels of margin on each side).
    """
    pad, out = PAD_PX, []
    for index, band in enumerate(BANDS):
        image = ground[index]
        if band.gsd_m == 10:
            sampled = ndimage.gaussian_filter(image, PSF_SIGMA_10M_PX, truncate=3.0)[pad:-pad, pad:-pad]
            rows, cols = row0, col0
        else:
            blurred = ndimage.gaussian_filter(image, PSF_SIGMA_20M_PX, truncate=3.0)[
                pad - 4 : 4 - pad, pad - 4 : 4 - pad
            ]
            blurred = (blurred[0::2] + blurred[1::2]) * np.float32(0.5)
            sampled = (blurred[:, 0::2] + blurred[:, 1::2]) * np.float32(0.5)
            rows, cols = row0 // 2 - 2, col0 // 2 - 2
        out.append(sampled + _noise(noise_seed * 31 + index, sampled, rows, cols))
    return out


def _noise(seed: int, image: FloatArray, row0: int, col0: int) -> FloatArray:
    rows = np.arange(row0, row0 + image.shape[0], dtype=np.int64)[:, None]
    cols = np.arange(col0, col0 + image.shape[1], dtype=np.int64)[None, :]
    h = hash_of(seed, rows, cols)
    # Sum of two uniform draws: triangular, deviation 1 after scaling; electronics plus shot noise.
    draw = (unit(h) + unit(h, 1) - np.float32(1.0)) * np.float32(2.449)
    return draw * (np.float32(NOISE) + np.float32(0.006) * np.abs(image))


def upsample_20m(image: FloatArray) -> FloatArray:
    """Bilinear 20 m → 10 m, ``[h + 4, w + 4]`` → ``[2h, 2w]``; pixel centres as areas, weights 3/4 and 1/4."""
    near, far = np.float32(0.75), np.float32(0.25)

    def double(a: npt.NDArray[np.float32]) -> FloatArray:
        doubled = np.empty((2 * (a.shape[0] - 4), a.shape[1]), np.float32)
        doubled[0::2] = near * a[2:-2] + far * a[1:-3]
        doubled[1::2] = near * a[2:-2] + far * a[3:-1]
        return doubled

    return double(double(image).T).T
