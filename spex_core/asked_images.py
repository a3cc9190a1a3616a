"""Images of finished maps and what is asked about them. Knows nothing of torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spex_core.quoted_values import Quotes


@dataclass(frozen=True)
class ImageQuestion:
    """One question."""

    text: str
    quotes: Quotes | None = None
    """What the answer may quote; None: whatever it likes."""


@dataclass(frozen=True)
class AskedImage:
    """An image and what is asked about it."""

    pixels: npt.NDArray[np.float32]
    """Reflectance ``[10, H, W]``, finite, or NaN throughout a missing band."""
    pixel_m: float
    """Side of a pixel, metres."""
    questions: tuple[ImageQuestion, ...]
