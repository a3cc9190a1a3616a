"""How much of a region is like nothing that a survey saw: distance of features from the nearest sample."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from pipeline.adaptation.fitting import Labels, Sources
from spex_core.legend_head import WORDS

COMPARED = ("inputs", "mean7", WORDS)
AXES = 12
"""Main axes in which distances are taken."""
USUAL = 0.99
"""Share of the samples that lie nearer to a sample of another block than what counts as far."""


def outside_share(samples: Sources, blocks: Labels, region: Sources) -> float | None:
    """Share of pixels of the region that are farther from every sample than samples are from those of other blocks.

    Args:
        samples: Of N labelled pixels.
        blocks: ``[N]``.
        region: Of M pixels spread over the region.

    Returns:
        0..1; None where there is nothing to compare.
    """
    if not region or len(np.unique(blocks)) < 3:
        return None
    known, seen = _joined(samples), _joined(region)
    mean, spread = known.mean(axis=0), known.std(axis=0)
    scale = np.where(spread > 1e-5, 1 / np.maximum(spread, 1e-5), 0.0)
    known, seen = (known - mean) * scale, (seen - mean) * scale
    _, _, axes = np.linalg.svd(known, full_matrices=False)
    known, seen = known @ axes[:AXES].T, seen @ axes[:AXES].T
    apart = np.full(len(known), np.inf)
    for block in np.unique(blocks):
        own = blocks == block
        apart[own] = cKDTree(known[~own]).query(known[own])[0]
    far = float(np.quantile(apart, USUAL))
    return float((cKDTree(known).query(seen)[0] > far).mean())


def _joined(sources: Sources) -> npt.NDArray[np.float64]:
    return np.hstack([sources[name].astype(np.float64) for name in COMPARED])
