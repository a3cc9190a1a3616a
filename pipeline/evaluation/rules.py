"""The index rules on whatever bands are there: what the indices alone would have said."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from spex_core.indices import SPECTRAL_INDICES, spectral_index, with_either_near_infrared
from spex_core.legend import Legend
from spex_core.priors import index_scores

FloatArray = npt.NDArray[np.float32]


def rule_scores(reflectance: FloatArray, legend: Legend) -> FloatArray:
    """Class scores of the index rules; a condition whose index needs a missing band is dropped.

    Args:
        reflectance: ``[10, H, W]``; NaN throughout a missing band, otherwise finite.
        legend: K classes with rules.

    Returns:
        ``[K, H, W]``, sums to 1 over K; a class that keeps no condition stands last.
    """
    reflectance = with_either_near_infrared(reflectance)
    probe = np.where(np.isfinite(reflectance[:, :1, :1]), np.float32(0.1), np.float32(np.nan))
    usable = {name for name in SPECTRAL_INDICES if np.isfinite(spectral_index(name, probe)).all()}
    kept = tuple(
        dataclasses.replace(entry, prior=tuple(c for c in entry.prior if c.index in usable)) for entry in legend
    )
    return index_scores(reflectance, dataclasses.replace(legend, classes=kept))
