"""Typical spectra of classes in the ground that was read around a point, and the indices that tell two apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spex_core.indices import DIFFERENCE_BANDS, SPECTRAL_INDICES, spectral_index, with_either_near_infrared

FloatArray = npt.NDArray[np.float32]
MIN_PIXELS = 20
"""Fewer pixels have no typical spectrum."""


@dataclass(frozen=True)
class Typical:
    """A class in a piece of ground."""

    pixels: int
    spectrum: FloatArray
    """Median of each band, float32 ``[10]``; NaN in bands that were not read."""
    means: dict[str, float]
    """Mean of each index."""
    deviations: dict[str, float]
    """Standard deviation of each index."""


@dataclass(frozen=True)
class IndexEvidence:
    """One index at the pixel, between what is usual of two classes."""

    index: str
    value: float
    usual: float
    """Mean over the class's pixels."""
    usual_other: float
    """Mean over the pixels of the runner-up."""
    weight: float
    """How much nearer the value is to the class than to the runner-up, in their common standard deviation; below 0: it
    is nearer to the runner-up."""


def indices_of(reflectance: FloatArray) -> dict[str, FloatArray]:
    """All indices of reflectance float32 ``[10, ...]``; NaN where one is not known."""
    shaped = reflectance.reshape(len(reflectance), -1, 1)
    filled = with_either_near_infrared(shaped)
    layers = {name: np.asarray(spectral_index(name, filled), np.float32) for name in SPECTRAL_INDICES}
    return {name: layer.reshape(reflectance.shape[1:]) for name, layer in layers.items()}


def typical_of(reflectance: FloatArray, chosen: npt.NDArray[np.bool_]) -> Typical | None:
    """What is typical of some pixels; None where there are too few.

    Args:
        reflectance: float32 ``[10, h, w]``, NaN where there is no measurement.
        chosen: bool ``[h, w]``.
    """
    values = reflectance[:, chosen]
    values = values[:, np.isfinite(values).any(axis=0)]
    if values.shape[1] < MIN_PIXELS:
        return None
    present = np.isfinite(values).all(axis=1)
    spectrum = np.full(len(values), np.nan, np.float32)
    spectrum[present] = np.median(values[present], axis=1)
    known = {name: layer[np.isfinite(layer)].astype(np.float64) for name, layer in indices_of(values).items()}
    known = {name: layer for name, layer in known.items() if layer.size}
    return Typical(
        pixels=values.shape[1],
        spectrum=spectrum,
        means={name: float(layer.mean()) for name, layer in known.items()},
        deviations={name: float(layer.std()) for name, layer in known.items()},
    )


def telling_indices(here: Mapping[str, float], own: Typical, other: Typical) -> tuple[IndexEvidence, ...]:
    """Indices of a pixel by how well they tell two classes apart there, the most telling first."""
    found = []
    formulas: set[tuple[str, ...]] = set()
    for name in SPECTRAL_INDICES:
        formula = DIFFERENCE_BANDS.get(name, (name,))
        known = name in own.means and name in other.means and np.isfinite(here.get(name, np.nan))
        if not known or formula in formulas:  # two indices have the same one
            continue
        formulas.add(formula)
        spread = float(np.hypot(own.deviations[name], other.deviations[name]))
        nearer = abs(here[name] - other.means[name]) - abs(here[name] - own.means[name])
        found.append(IndexEvidence(name, here[name], own.means[name], other.means[name], nearer / max(spread, 0.01)))
    return tuple(sorted(found, key=lambda e: (-abs(e.weight), e.index)))
