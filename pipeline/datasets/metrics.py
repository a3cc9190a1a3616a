"""Metrics that protocols share; all are shares 0..1 of what was compared."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.comparison.assessment import Assessment
from pipeline.comparison.objects import ObjectMatches


def miou(assessment: Assessment, _: ObjectMatches | None) -> float:
    """Mean intersection over union."""
    return assessment.miou


def overall_accuracy(assessment: Assessment, _: ObjectMatches | None) -> float:
    """Share of pixels that are right."""
    return assessment.overall


def average_accuracy(assessment: Assessment, _: ObjectMatches | None) -> float:
    """Mean recall."""
    return assessment.mean_recall


def object_f1(_: Assessment, objects: ObjectMatches | None) -> float:
    """F1 of objects at intersection over union 0.5."""
    return float("nan") if objects is None else objects.f1


def iou_of(name: str) -> Callable[[Assessment, ObjectMatches | None], float]:
    """Intersection over union of one class."""

    def metric(assessment: Assessment, _: ObjectMatches | None) -> float:
        return float(assessment.iou[assessment.legend.names.index(name)])

    return metric
