"""The composite as a model sees it when it is to speak about the map: block means of 2 x 2 px, in 16 bits.

Kept where a run asks for words: a sixth of what the pixels would take, and the scenes need not be read a second time.
Without it the scenes are read again, to the same values.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.records.grid import SEEN_PX

SEEN_SCALE = 10_000
"""Stored value = round(reflectance * SEEN_SCALE), SEEN_NODATA where nothing was measured."""
SEEN_NODATA = -32768


def seen_image(reflectance: NDArray[np.float32]) -> NDArray[np.int16]:
    """Means of what was measured in blocks of 2 x 2 px.

    Args:
        reflectance: float32 ``[bands, h, w]``, NaN where there is no measurement; its first pixel is a block's first.

    Returns:
        int16 ``[bands, ceil(h / 2), ceil(w / 2)]``.
    """
    bands, height, width = reflectance.shape
    found = np.empty((bands, -(-height // SEEN_PX), -(-width // SEEN_PX)), np.int16)
    for layer, band in zip(found, reflectance, strict=True):
        if height % SEEN_PX or width % SEEN_PX:
            band = np.pad(band, ((0, height % SEEN_PX), (0, width % SEEN_PX)), constant_values=np.nan)
        layer[...] = _scaled(_block_means(band))
    return found


def _block_means(band: NDArray[np.float32]) -> NDArray[np.float32]:
    total = band[::2, ::2] + band[1::2, ::2]
    total += band[::2, 1::2]
    total += band[1::2, 1::2]
    total *= np.float32(0.25)
    if not (unsure := np.isnan(total)).any():
        return total
    parts = np.stack([band[down::2, across::2][unsure] for down in (0, 1) for across in (0, 1)])
    known = np.isfinite(parts)
    count = known.sum(axis=0)
    sums = np.where(known, parts, np.float32(0)).sum(axis=0)
    total[unsure] = np.where(count > 0, sums / np.maximum(count, 1).astype(np.float32), np.float32(np.nan))
    return total


def _scaled(values: NDArray[np.float32]) -> NDArray[np.int16]:
    scaled = values * np.float32(SEEN_SCALE)
    unknown = ~np.isfinite(scaled)
    np.rint(scaled, out=scaled)
    np.clip(scaled, -32767, 32767, out=scaled)
    scaled[unknown] = SEEN_NODATA
    return scaled.astype(np.int16)


def reflectance_of(image: NDArray[np.int16], factor: int = 1) -> NDArray[np.float32]:
    """The reverse of :func:`seen_image`, by means of ``factor`` x ``factor`` of its pixels; sides are multiples of it.

    Returns:
        float32 ``[bands, h / factor, w / factor]``, NaN where nothing was measured.
    """
    bands, height, width = image.shape
    blocks = image.reshape(bands, height // factor, factor, width // factor, factor)
    known = blocks != SEEN_NODATA
    count = known.sum(axis=(2, 4))
    total = np.where(known, blocks, 0).sum(axis=(2, 4), dtype=np.int64)
    return np.where(count > 0, total / np.maximum(count, 1) / SEEN_SCALE, np.nan).astype(np.float32)
