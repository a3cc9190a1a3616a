"""What an evaluation found, as plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.comparison.assessment import Assessment
from pipeline.comparison.figures import ProtocolFigure
from pipeline.evaluation.config import RowName

ROW_TITLES: dict[RowName, str] = {
    "model": "the model, attributes measured in the image",
    "shuffled": "– attributes of another chip",
    "none": "– no attributes",
    "index_rules": "index rules only",
    "forest": "random forest, pixel by pixel",
}
NO_DIFFERENCE = 0.005
"""Attributes are said to help or to hurt from half a point of mean IoU on, against both other rows."""


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    assessment: Assessment
    boundary_f1: tuple[float, ...]
    """Per compared class; NaN without boundary."""
    mean_boundary_f1: float
    calibration_error: float
    by_chip: npt.NDArray[np.int64]
    """Pixels ``[N, G, G + 1]``, see :attr:`pipeline.evaluation.tally.Tally.by_chip`."""


@dataclass(frozen=True)
class Gain:
    """What one row is better than another by, on the same chips; shares, not points."""

    accuracy: float
    miou: float
    low: float
    """Of the mean IoU: 95 % of resampled sets of chips lie between ``low`` and ``high``."""
    high: float


def gain(one: Row, other: Row, resamples: int = 500) -> Gain:
    """Difference of two rows, with an interval by drawing chips again with replacement (bootstrap, seed 0)."""
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(one.by_chip), (resamples, len(one.by_chip)))
    differences = [_miou(one.by_chip[draw].sum(axis=0)) - _miou(other.by_chip[draw].sum(axis=0)) for draw in draws]
    low, high = np.nanpercentile(differences, (2.5, 97.5))
    a, b = one.assessment, other.assessment
    return Gain(a.overall - b.overall, a.miou - b.miou, float(low), float(high))


def _miou(counts: npt.NDArray[np.int64]) -> float:
    hits, reference = np.diagonal(counts), counts.sum(axis=1)
    union = reference + counts[:, :-1].sum(axis=0) - hits
    present = reference > 0
    return float(np.mean(hits[present] / union[present])) if present.any() else math.nan


@dataclass(frozen=True)
class TextQuality:
    """How much of what the model writes the labels support."""

    chips: int
    texts: int
    claims: int
    supported: int
    kinds: dict[str, tuple[int, int]]
    """Kind of claim → (claims, supported)."""
    written: int = 0
    """Claims before the model's texts were held against its masks."""
    written_supported: int = 0

    @property
    def share(self) -> float:
        """Supported share of the claims, 0..1; NaN without claims."""
        return self.supported / self.claims if self.claims else math.nan


@dataclass(frozen=True)
class SourceFigures:
    """The figures of one source of several."""

    name: str
    chips: int
    rows: dict[RowName, Row]


@dataclass(frozen=True)
class EvaluationResult:
    """Everything that the table shows."""

    name: str
    checkpoint: str
    legend: str
    bands: tuple[str, ...]
    sources: tuple[SourceFigures, ...]
    chips: int
    boundary_tolerance_px: float
    calibration_bins: int
    rows: dict[RowName, Row]
    notes: tuple[str, ...] = ()
    """Why a row is missing, what a figure is not."""
    texts: TextQuality | None = None
    protocol: tuple[ProtocolFigure, ...] = ()
    protocol_note: str = ""
    seconds: float = 0.0

    def attribute_gains(self) -> dict[RowName, Gain]:
        """Row without true attributes → what the true ones gain over it."""
        gains: dict[RowName, Gain] = {}
        without: tuple[RowName, ...] = ("shuffled", "none")
        for name in without:
            if "model" in self.rows and name in self.rows:
                gains[name] = gain(self.rows["model"], self.rows[name])
        return gains

    def mean_over_sources(self) -> dict[RowName, tuple[float, float]]:
        """Row → mean over the sources of overall accuracy and of mean IoU: each source weighs the same."""
        return {
            name: (
                float(np.mean([s.rows[name].assessment.overall for s in self.sources])),
                float(np.mean([s.rows[name].assessment.miou for s in self.sources])),
            )
            for name in self.rows
        }

    def attribute_verdict(self) -> str:
        """One sentence: whether attributes help, with the differences and their signs; empty if not measured."""
        gains = self.attribute_gains()
        if not gains:
            return ""
        parts = [
            f"{_points(found.miou)} points of mean IoU ({_points(found.low)} to {_points(found.high)}) and "
            f"{_points(found.accuracy)} of overall accuracy against "
            f"{'attributes of another chip' if name == 'shuffled' else 'none'}"
            for name, found in gains.items()
        ]
        mious = [found.miou for found in gains.values()]
        if min(mious) >= NO_DIFFERENCE:
            verdict = "Attributes help"
        elif max(mious) <= -NO_DIFFERENCE:
            verdict = "Attributes hurt"
        else:
            verdict = "Attributes do not help"
        return f"{verdict}: {'; '.join(parts)}."

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; figures 0..1 with four decimals, None where there is nothing to measure."""
        return {
            "name": self.name,
            "checkpoint": self.checkpoint,
            "legend": self.legend,
            "bands": list(self.bands),
            "chips": self.chips,
            "boundary_tolerance_px": self.boundary_tolerance_px,
            "calibration_bins": self.calibration_bins,
            "rows": {name: row_dict(row) for name, row in self.rows.items()},
            "sources": [
                {"name": s.name, "chips": s.chips, "rows": {name: _figures(row) for name, row in s.rows.items()}}
                for s in self.sources
            ],
            "mean_over_sources": {
                name: {"accuracy": _rounded(accuracy), "miou": _rounded(miou)}
                for name, (accuracy, miou) in self.mean_over_sources().items()
            },
            "attributes": {
                "verdict": self.attribute_verdict(),
                **{
                    f"gain_over_{name}": {
                        "accuracy": _rounded(found.accuracy),
                        "miou": _rounded(found.miou),
                        "miou_95": [_rounded(found.low), _rounded(found.high)],
                    }
                    for name, found in self.attribute_gains().items()
                },
            },
            "texts": None
            if self.texts is None
            else {
                "chips": self.texts.chips,
                "texts": self.texts.texts,
                "claims": self.texts.claims,
                "supported_share": _rounded(self.texts.share),
                "written": {"claims": self.texts.written, "supported": self.texts.written_supported},
                "kinds": {kind: {"claims": n, "supported": s} for kind, (n, s) in sorted(self.texts.kinds.items())},
            },
            "protocol": [
                {
                    "metric": f.metric,
                    "measured": _rounded(f.measured),
                    "published": [{"model": m, "figure": v, "source": s} for m, v, s in f.published],
                }
                for f in self.protocol
            ],
            "protocol_note": self.protocol_note,
            "notes": list(self.notes),
            "seconds": round(self.seconds, 1),
        }


def row_dict(row: Row) -> dict[str, Any]:
    """JSON-able form of one row."""
    a = row.assessment
    columns = zip(a.legend, a.iou, a.f1, a.users, a.producers, row.boundary_f1, a.reference, strict=True)
    return {
        **_figures(row),
        "classes": {
            entry.name: {
                "iou": _rounded(iou),
                "f1": _rounded(f1),
                "precision": _rounded(precision),
                "recall": _rounded(recall),
                "boundary_f1": _rounded(boundary),
                "pixels": int(pixels),
            }
            for entry, iou, f1, precision, recall, boundary, pixels in columns
        },
        "confusion": a.confusion.tolist(),
        "outside": [] if a.outside is None else a.outside.tolist(),
    }


def _figures(row: Row) -> dict[str, Any]:
    return {
        "accuracy": _rounded(row.assessment.overall),
        "miou": _rounded(row.assessment.miou),
        "mean_f1": _rounded(row.assessment.mean_f1),
        "mean_recall": _rounded(row.assessment.mean_recall),
        "boundary_f1": _rounded(row.mean_boundary_f1),
        "calibration_error": _rounded(row.calibration_error),
        "pixels": int(np.sum(row.assessment.reference)),
    }


def _points(share: float) -> str:
    """Percentage points with their sign; never -0.0."""
    return f"{round(share * 100, 1) + 0.0:+.1f}"


def _rounded(value: float) -> float | None:
    """Four decimals; None for NaN, which JSON lacks."""
    return round(float(value), 4) if math.isfinite(value) else None
