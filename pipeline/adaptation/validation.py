"""What an adapted model is worth where it has not learnt: blocks left out, beside a random forest and the old model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import RandomForestClassifier

from pipeline.adaptation.fitting import (
    FOLDS,
    Labels,
    Sources,
    fit_candidate,
    fit_head,
    rows,
    softmax,
    spatial_folds,
    splits,
)
from pipeline.comparison.calibration import Calibration
from pipeline.evaluation.forest import features
from spex_core.legend_head import WORDS

TREES = 200
BINS = 10
SEED = 0


@dataclass(frozen=True)
class Figures:
    """Of one classifier on left-out samples."""

    overall: float
    mean_recall: float
    mean_iou: float

    @classmethod
    def of(cls, predicted: Labels, labels: Labels, classes: int) -> Figures:
        """From predictions ``[N]``; means are over the classes that occur."""
        confusion = confusion_of(predicted, labels, classes)
        there = confusion.sum(axis=1) > 0
        hits = np.diag(confusion)[there].astype(float)
        union = (confusion.sum(axis=0) + confusion.sum(axis=1))[there] - hits
        recall = hits / confusion.sum(axis=1)[there]
        return cls(float((predicted == labels).mean()), float(recall.mean()), float((hits / union).mean()))

    def to_dict(self) -> dict[str, float]:
        """JSON-able form."""
        return {name: round(value, 4) for name, value in vars(self).items()}


@dataclass(frozen=True)
class Validation:
    """What left-out blocks say."""

    samples: int
    folds: int
    adapted: Figures
    forest: Figures
    confusion: npt.NDArray[np.int64]
    """``[K, K]``, rows: the survey's class; columns: the adapted model's."""
    forest_recall: npt.NDArray[np.float64]
    """``[K]``."""
    calibration_error: float
    curve: tuple[tuple[int, float], ...]
    """Samples learnt from, and overall accuracy on left-out blocks; rising."""
    related: dict[str, Figures] = field(default_factory=dict)
    """``unadapted``, ``adapted`` and ``forest`` at the level of the shipped legend's classes; empty where the classes
    are like none of these."""
    by_people: dict[str, Figures] = field(default_factory=dict)
    """``adapted`` and ``forest`` on what people labelled, where other labels are of a land-cover product; else
    empty."""

    @property
    def forest_ahead(self) -> bool:
        """The random forest maps left-out blocks better; where people labelled some of it, those count."""
        adapted, forest = self.judged
        return forest.overall > adapted.overall

    @property
    def judged(self) -> tuple[Figures, Figures]:
        """Of this checkpoint and of the forest: on people's labels where there are some, else on all."""
        if self.by_people:
            return self.by_people["adapted"], self.by_people["forest"]
        return self.adapted, self.forest

    @property
    def gain_of_100_more(self) -> float | None:
        """What a hundred further samples may bring in overall accuracy, by the slope of the curve's last doubling."""
        if len(self.curve) < 2:
            return None
        (few, low), (many, high) = self.curve[-2:]
        slope = max(high - low, 0.0) / np.log2(many / few) if many > few else 0.0
        return float(min(slope * np.log2((many + 100) / many), 1.0 - high))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        gain = self.gain_of_100_more
        return {
            "samples": self.samples,
            "folds": self.folds,
            "adapted": self.adapted.to_dict(),
            "forest": self.forest.to_dict(),
            "forest_ahead": self.forest_ahead,
            "confusion": self.confusion.tolist(),
            "forest_recall": [None if np.isnan(v) else round(float(v), 4) for v in self.forest_recall],
            "calibration_error": round(self.calibration_error, 4),
            "curve": [[count, round(accuracy, 4)] for count, accuracy in self.curve],
            "gain_of_100_more": None if gain is None else round(gain, 4),
            "related": {name: figures.to_dict() for name, figures in self.related.items()},
            "by_people": {name: figures.to_dict() for name, figures in self.by_people.items()},
        }


def confusion_of(predicted: Labels, labels: Labels, classes: int) -> npt.NDArray[np.int64]:
    """``[K, K]``, rows: what it is."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def forest_on(pixels: npt.NDArray[np.float32], labels: Labels) -> RandomForestClassifier:
    """A forest on bands and indices of pixels ``[N, 10]``: what one would do without a network."""
    forest = RandomForestClassifier(n_estimators=TREES, random_state=SEED, n_jobs=1)
    forest.fit(forest_table(pixels), labels)
    return forest


def forest_table(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Bands and indices, ``[N, 18]``; 0 where a band is missing."""
    return np.nan_to_num(features(np.ascontiguousarray(pixels.T)))


def validate(
    sources: Sources,
    pixels: npt.NDArray[np.float32],
    labels: Labels,
    classes: int,
    blocks: Labels,
    xy: npt.NDArray[np.float64],
    gap_m: float,
    related: Mapping[int, int] | None = None,
    by_people: npt.NDArray[np.bool_] | None = None,
) -> Validation | None:
    """Leaves out blocks in turn; regularisation, sources and temperature are chosen without them each time.

    Args:
        sources: Of N samples.
        pixels: Their reflectance, ``[N, 10]``.
        labels: ``[N]``.
        classes: K.
        blocks: Of each sample.
        xy: ``[N, 2]``, metres.
        gap_m: Samples nearer than this to a left-out one are not learnt from either.
        related: Class → position of the word that it is like; only if every class has one.
        by_people: ``[N]``: which samples people labelled; None: all.

    Returns:
        None where there are too few blocks to leave some out.
    """
    folds = splits(spatial_folds(blocks, labels, FOLDS), xy, gap_m)
    if len(folds) < 2:
        return None
    scores = np.zeros((len(labels), classes), np.float32)
    by_forest = np.zeros(len(labels), np.int64)
    tested = np.zeros(len(labels), bool)
    shares, hits = (0.25, 0.5, 1.0), np.zeros(3)
    learnt = np.zeros(3)
    for train, test in folds:
        head, temperature = fit_head(rows(sources, train), labels[train], classes, blocks[train], xy[train], gap_m)
        scores[test] = softmax(head.logits(rows(sources, test)), temperature)
        by_forest[test] = forest_on(pixels[train], labels[train]).predict(forest_table(pixels[test]))
        tested[test] = True
        for k, share in enumerate(shares):
            few = train[thinned(labels[train], share)]
            part = head if share == 1 else fit_candidate(rows(sources, few), labels[few], classes, head.chosen)
            hits[k] += (part.logits(rows(sources, test)).argmax(axis=1) == labels[test]).sum()
            learnt[k] += len(few)
    known, found = labels[tested], scores[tested].argmax(axis=1)
    calibration = Calibration(BINS)
    calibration.add(scores[tested].max(axis=1), found == known)
    counts = np.bincount(known, minlength=classes)
    forest_hits = np.bincount(known[by_forest[tested] == known], minlength=classes)
    judged = np.zeros(len(labels), bool) if by_people is None else tested & by_people
    people: dict[str, Figures] = {}
    if by_people is not None and judged.any() and not by_people.all():
        for name, answer in (("adapted", scores.argmax(axis=1)), ("forest", by_forest)):
            people[name] = Figures.of(answer[judged], labels[judged], classes)
    return Validation(
        samples=int(tested.sum()),
        folds=len(folds),
        adapted=Figures.of(found, known, classes),
        forest=Figures.of(by_forest[tested], known, classes),
        confusion=confusion_of(found, known, classes),
        forest_recall=np.where(counts > 0, forest_hits / np.maximum(counts, 1), np.nan),
        calibration_error=calibration.error,
        curve=tuple(
            (round(count / len(folds)), float(hit / tested.sum())) for count, hit in zip(learnt, hits, strict=True)
        ),
        related=_related(sources[WORDS][tested], found, by_forest[tested], known, related),
        by_people=people,
    )


def thinned(labels: Labels, share: float) -> npt.NDArray[np.intp]:
    """Positions of a share of the samples of each class, evenly spread in their order, two at least."""
    chosen = []
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        count = min(len(own), max(2, round(share * len(own))))
        chosen.append(own[np.unique(np.linspace(0, len(own) - 1, count).round().astype(int))])
    return np.sort(np.concatenate(chosen))


def _related(
    words: npt.NDArray[np.float32], found: Labels, by_forest: Labels, labels: Labels, related: Mapping[int, int] | None
) -> dict[str, Figures]:
    if related is None:
        return {}
    table = np.zeros(max(related) + 1, np.int64)
    table[list(related)] = list(related.values())
    count = words.shape[1]
    truth = table[labels]
    return {
        "unadapted": Figures.of(words.argmax(axis=1), truth, count),
        "adapted": Figures.of(table[found], truth, count),
        "forest": Figures.of(table[by_forest], truth, count),
    }
