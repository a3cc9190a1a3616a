"""Heads from few labels: ridge regression on what a frozen model sees, chosen and calibrated on spatial blocks.

Each source of a :class:`spex_core.legend_head.LegendHead` is standardised and given the same weight, whatever its
number of channels, so that two hundred channels of context do not outvote seventeen of colour. The fit is convex: no
seed, no stopping; how strongly weights are held near zero, and which sources speak, is what blocks decide.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from pipeline.comparison.calibration import fit_temperature
from spex_core.legend_head import WORDS

Table = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Sources = Mapping[str, Table]

NEAR = ("inputs", "mean3", "spread3", "mean7", "spread7")
"""Colours of a pixel and its neighbours."""
DEEP = ("inputs", "detail", "level1", "level2", "aggregated", WORDS)
"""What the network makes of them."""
CANDIDATES: dict[str, tuple[tuple[str, ...], float]] = {
    "colours": (NEAR, 0.1),
    "network": (DEEP, 0.1),
    "both": ((*NEAR, *DEEP[1:]), 0.03),
    "both, freer": ((*NEAR, *DEEP[1:]), 1.0),
}
"""Name → sources, and the inverse strength of the ridge."""
MEAN = "mean of colours, network and both"
"""Its logits are the mean of theirs, so it is one linear head too."""
_OF_MEAN = ("colours", "network", "both")
CHANNELS = 20.0
"""A source counts as so many channels."""
FOLDS = 5
INNER_FOLDS = 3


@dataclass(frozen=True)
class Head:
    """A fitted linear map."""

    weights: dict[str, npt.NDArray[np.float64]]
    """Of each source, ``[K, channels]``."""
    bias: npt.NDArray[np.float64]
    """``[K]``."""
    chosen: str
    """Of :data:`CANDIDATES`, or :data:`MEAN`."""

    def logits(self, sources: Sources) -> npt.NDArray[np.float64]:
        """``[N, K]``."""
        parts = [sources[name].astype(np.float64) @ weight.T for name, weight in self.weights.items()]
        return np.asarray(sum(parts[1:], parts[0]) + self.bias)


def rows(sources: Sources, chosen: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> dict[str, Table]:
    """Some samples of every source."""
    return {name: table[chosen] for name, table in sources.items()}


def spatial_folds(blocks: Labels, labels: Labels, folds: int) -> Labels:
    """Fold of each sample, ``[N]``: whole blocks, dealt so that each class is spread; no chance in it."""
    count = int(labels.max()) + 1
    held = np.zeros((folds, count))
    fold_of: dict[int, int] = {}
    numbers = np.unique(blocks)
    tables = {int(b): np.bincount(labels[blocks == b], minlength=count) for b in numbers}
    total = np.maximum(np.bincount(labels, minlength=count), 1)
    # Large and rare first: what comes last must fit in anywhere.
    for block in sorted(tables, key=lambda b: (-float((tables[b] / total).sum()), b)):
        # The fold that has least of the classes in it.
        lack = ((held + 0.0) / total * (tables[block] > 0)).sum(axis=1) + 1e-3 * held.sum(axis=1) / len(labels)
        fold_of[block] = int(np.argmin(lack))
        held[fold_of[block]] += tables[block]
    return np.array([fold_of[int(b)] for b in blocks], np.int64)


def fit_candidate(sources: Sources, labels: Labels, classes: int, name: str) -> Head:
    """One candidate; a class without a sample is never answered."""
    if name == MEAN:
        heads = [fit_candidate(sources, labels, classes, part) for part in _OF_MEAN]
        weights: dict[str, npt.NDArray[np.float64]] = {}
        for head in heads:
            for source, weight in head.weights.items():
                weights[source] = weights.get(source, np.zeros_like(weight)) + weight / len(heads)
        return Head(weights, np.asarray(np.mean([head.bias for head in heads], axis=0)), MEAN)
    wanted, strength = CANDIDATES[name]
    used = [source for source in wanted if source in sources]
    tables, scales, means = [], {}, {}
    for source in used:
        table = sources[source].astype(np.float64)
        means[source], spread = table.mean(axis=0), table.std(axis=0)
        known = spread > 1e-5  # a band that is missing is the same everywhere
        scales[source] = np.where(known, 1 / np.maximum(spread, 1e-5), 0.0) / np.sqrt(max(known.sum(), 1) / CHANNELS)
        tables.append((table - means[source]) * scales[source])
    joined = np.hstack(tables)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if len(joined) < joined.shape[1]:  # the ridge's answer lies in the span of the samples
            _, values, axes = np.linalg.svd(joined, full_matrices=False)
            axes = axes[values > 1e-6 * values[0]]
            coefficients, intercept, present = _ridge(joined @ axes.T, labels, strength)
            coefficients = coefficients @ axes
        else:
            coefficients, intercept, present = _ridge(joined, labels, strength)
    bias = np.full(classes, -30.0)
    bias[present] = intercept
    full = np.zeros((classes, joined.shape[1]))
    full[present] = coefficients
    own, start = {}, 0
    for source in used:
        part = full[:, start : start + len(scales[source])] * scales[source]
        start += len(scales[source])
        own[source] = part
        bias[present] -= (part @ means[source])[present]
    return Head(own, bias, name)


def _ridge(table: npt.NDArray[np.float64], labels: Labels, strength: float) -> tuple[Any, Any, Any]:
    """Coefficients ``[k, channels]``, intercepts ``[k]`` and the classes that they are of."""
    present = np.unique(labels)
    if len(present) == 1:
        return np.zeros((1, table.shape[1])), np.zeros(1), present
    found = LogisticRegression(C=strength, max_iter=200, tol=1e-4).fit(table, labels)
    coefficients, intercept = np.asarray(found.coef_), np.asarray(found.intercept_)
    if len(present) == 2:  # the odds of the second class
        return np.vstack([-coefficients, coefficients]) / 2, np.array([-intercept[0], intercept[0]]) / 2, present
    return coefficients, intercept, present


def softmax(logits: npt.NDArray[np.float64], temperature: float = 1.0) -> Table:
    """Scores ``[N, K]``."""
    shifted = logits / temperature
    powers = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def out_of_fold(
    sources: Sources, labels: Labels, classes: int, name: str, kept: Sequence[tuple[Labels, Labels]]
) -> npt.NDArray[np.float64]:
    """Logits ``[N, K]`` of every sample by a head that has not seen its fold; NaN for samples of no fold."""
    logits = np.full((len(labels), classes), np.nan)
    for train, test in kept:
        logits[test] = fit_candidate(rows(sources, train), labels[train], classes, name).logits(rows(sources, test))
    return logits


def splits(folds: Labels, xy: npt.NDArray[np.float64], gap_m: float) -> list[tuple[Labels, Labels]]:
    """Positions to learn from and to measure on, fold by fold; what lies nearer than the gap to the latter is neither.

    Folds in which one side is empty are left out.
    """
    from scipy.spatial import cKDTree

    found = []
    for fold in np.unique(folds):
        test = np.flatnonzero(folds == fold)
        train = np.flatnonzero(folds != fold)
        if gap_m > 0 and len(train):
            far, _ = cKDTree(xy[test]).query(xy[train])
            train = train[far > gap_m]
        if len(train) and len(test):
            found.append((train, test))
    return found


def best_candidate(
    sources: Sources, labels: Labels, classes: int, kept: Sequence[tuple[Labels, Labels]]
) -> tuple[str, float]:
    """The candidate under which left-out blocks are least surprising, and the temperature that fits them best."""
    losses, temperatures = {}, {}
    for name in (MEAN, *CANDIDATES):
        logits = out_of_fold(sources, labels, classes, name, kept)
        known = np.isfinite(logits).all(axis=1)
        scores, target = softmax(logits[known]).T, np.eye(classes, dtype=np.float32)[labels[known]].T
        temperatures[name] = fit_temperature(scores, target) if known.any() else 1.0
        fitted = softmax(logits[known], temperatures[name])
        losses[name] = float(-np.log(np.maximum(fitted[np.arange(known.sum()), labels[known]], 1e-7)).mean())
    best = min(losses, key=lambda name: losses[name])
    return best, temperatures[best]


def fit_head(
    sources: Sources, labels: Labels, classes: int, blocks: Labels, xy: npt.NDArray[np.float64], gap_m: float
) -> tuple[Head, float]:
    """The best candidate by inner blocks, fitted on all samples, and its temperature."""
    inner = splits(spatial_folds(blocks, labels, INNER_FOLDS), xy, gap_m)
    with threadpool_limits(1):  # sums change with the number of threads; to ask for it takes longer than a fit
        name, temperature = best_candidate(sources, labels, classes, inner) if len(inner) > 1 else (MEAN, 1.0)
        return fit_candidate(sources, labels, classes, name), temperature
