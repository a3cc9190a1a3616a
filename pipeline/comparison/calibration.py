"""Whether a score of 0.8 is right eight times in ten: expected calibration error, and the temperature that mends it.

Source: Guo et al. 2017, On Calibration of Modern Neural Networks (arXiv 1706.04599).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

FloatArray = npt.NDArray[np.float32]
TEMPERATURES = (0.05, 20.0)
"""Range in which a temperature is sought."""
_SMALLEST = 1e-7
"""Scores below this are rounding: the logarithm needs a floor."""


@dataclass
class Calibration:
    """Counts for the expected calibration error; equal bins of confidence (score of the chosen class) over 0..1.

    Args:
        bins: Number of bins.
    """

    bins: int

    def __post_init__(self) -> None:
        self._pixels = np.zeros(self.bins, np.int64)
        self._hits = np.zeros(self.bins, np.int64)
        self._confidence = np.zeros(self.bins, np.float64)

    def add(self, confidence: FloatArray, right: npt.NDArray[np.bool_]) -> None:
        """Counts pixels.

        Args:
            confidence: Score of the chosen class, ``[N]``, 0..1.
            right: Whether it is the class of the reference, ``[N]``.
        """
        bin_of = np.minimum((confidence * self.bins).astype(np.int64), self.bins - 1)
        self._pixels += np.bincount(bin_of, minlength=self.bins)
        self._hits += np.bincount(bin_of[right], minlength=self.bins)
        self._confidence += np.bincount(bin_of, weights=confidence, minlength=self.bins)

    @property
    def error(self) -> float:
        """Mean over pixels of the gap between confidence and accuracy of their bin, 0..1; NaN without pixels."""
        total = self._pixels.sum()
        return float(np.abs(self._hits - self._confidence).sum() / total) if total else float("nan")


def rescaled(scores: FloatArray, factor: float) -> FloatArray:
    """Scores as they were with ``temperature * factor``: softmax(log(score) / factor).

    Args:
        scores: ``[K, ...]``, sums to 1 over K.
        factor: Above 1: less sure of itself.
    """
    logits = np.log(np.maximum(scores, _SMALLEST)) / np.float32(factor)
    logits -= logits.max(axis=0)
    powers = np.exp(logits)
    return np.asarray(powers / powers.sum(axis=0), np.float32)


def log_loss(scores: FloatArray, target: FloatArray) -> float:
    """Mean negative log-likelihood of the labels, nats.

    Args:
        scores: ``[K, N]``, sums to 1 over K.
        target: Class probabilities, ``[K, N]``.
    """
    return float(-(target * np.log(np.maximum(scores, _SMALLEST))).sum(axis=0, dtype=np.float64).mean())


def fit_temperature(scores: FloatArray, target: FloatArray) -> float:
    """The factor on a model's temperature under which its scores explain the labels best.

    Args:
        scores: Of held-out pixels, ``[K, N]``.
        target: Class probabilities, ``[K, N]``.

    Returns:
        1 where the model is as sure as it may be; above 1 where it is too sure.
    """
    found = minimize_scalar(
        lambda log_factor: log_loss(rescaled(scores, float(np.exp(log_factor))), target),
        bounds=tuple(np.log(TEMPERATURES)),
        method="bounded",
        options={"xatol": 1e-3},
    )
    return float(np.exp(found.x))
