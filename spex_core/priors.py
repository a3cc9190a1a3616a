"""Spectral priors: what classical index rules say about an image, from the imagery alone (never from labels).

Rules are declared per class in the legend (``prior``). They serve twice: as the index-only baseline map, and as the
source of the attribute records that stand in the prompts (SPIE, arXiv 2508.05202 section III).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spex_core.indices import spectral_index
from spex_core.legend import Legend, LegendClass

SOFTNESS = 0.05
"""Index units over which membership falls from certain to doubtful."""

FloatArray = npt.NDArray[np.float32]


def index_margins(reflectance: FloatArray, legend: Legend) -> FloatArray:
    """How far each pixel lies inside (> 0) or outside (< 0) each class's index conditions.

    Args:
        reflectance: Surface reflectance, float32 ``[10, H, W]``.
        legend: K classes with priors.

    Returns:
        float32 ``[K, H, W]``, index units: the tightest condition of the class; -1 for a class without a prior.
    """
    indices: dict[str, FloatArray] = {}

    def margin(entry: LegendClass) -> FloatArray:
        tightest = np.full(reflectance.shape[-2:], 1.0 if entry.prior else -1.0, np.float32)
        for condition in entry.prior:
            if condition.index not in indices:
                indices[condition.index] = np.asarray(spectral_index(condition.index, reflectance), np.float32)
            value = indices[condition.index]
            if condition.low is not None:
                tightest = np.minimum(tightest, value - np.float32(condition.low))
            if condition.high is not None:
                tightest = np.minimum(tightest, np.float32(condition.high) - value)
        return tightest

    return np.stack([margin(entry) for entry in legend])


def index_scores(reflectance: FloatArray, legend: Legend) -> FloatArray:
    """The index-only baseline: class scores from the rules alone.

    Args:
        reflectance: Surface reflectance, float32 ``[10, H, W]``, finite.
        legend: K classes with priors.

    Returns:
        float32 ``[K, H, W]``, softmax over K of the margins in units of :data:`SOFTNESS`; sums to 1.
    """
    logits = index_margins(reflectance, legend) / np.float32(SOFTNESS)
    logits -= logits.max(axis=0, keepdims=True)
    scores = np.exp(logits)
    return np.asarray(scores / scores.sum(axis=0, keepdims=True), np.float32)
