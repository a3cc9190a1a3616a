"""What a public data set is to an evaluation: its classes, splits, chips, metrics and published figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.comparison.assessment import Assessment
from pipeline.comparison.figures import ProtocolFigure
from pipeline.comparison.objects import ObjectMatches
from spex_core.bands import BANDS, Band
from spex_core.batches import ChipSource
from spex_core.legend import Legend


@dataclass(frozen=True)
class Published:
    """A figure that others published."""

    model: str
    figure: float
    source: str


@dataclass(frozen=True)
class Metric:
    """One metric of a protocol, in percent."""

    name: str
    of: Callable[[Assessment, ObjectMatches | None], float]
    """Share 0..1 from the pixels compared (and the objects, where the protocol counts objects)."""
    published: tuple[Published, ...] = ()


@dataclass(frozen=True)
class Opened:
    """One split of a data set on disk."""

    dataset: Dataset
    split: str
    chips: ChipSource
    """Chips in the order of the split; class probabilities are 0 or 1, weight 0 where the data set has no label."""
    sensor: tuple[Band, ...] = BANDS
    """The band that stands in each of the ten channels."""
    gsd_m: float | None = None
    """Pixel size on the ground, metres, where it is not Sentinel-2's."""


@dataclass(frozen=True)
class Dataset:
    """A public data set that the user holds."""

    name: str
    """Name in evaluation files."""
    title: str
    legend: Legend
    """Its own classes, with nouns for prompts."""
    splits: tuple[str, ...]
    default_split: str
    """The split that published figures are of."""
    metrics: tuple[Metric, ...]
    open: Callable[[Dataset, Path, str, Mapping[str, str]], Opened]
    """Opens a split below a folder; raises :class:`pipeline.errors.ChipError` where the folder is not as released."""
    note: str = ""
    """What one must know to compare with the published figures."""
    worldcover: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Crosswalk for a model asked for ``worldcover9``: class name → codes that count as it."""
    options: tuple[str, ...] = ()
    """Names of the options that ``open`` takes."""
    counts_objects: bool = False

    def object_matches(self) -> ObjectMatches | None:
        """A fresh count of objects, for protocols that count them (of the second class)."""
        return ObjectMatches(channel=1) if self.counts_objects else None

    def figures(self, assessment: Assessment, objects: ObjectMatches | None) -> tuple[ProtocolFigure, ...]:
        """The protocol's metrics beside the published figures, percent."""
        return tuple(
            ProtocolFigure(
                metric.name,
                100 * metric.of(assessment, objects),
                tuple((p.model, p.figure, p.source) for p in metric.published),
            )
            for metric in self.metrics
        )

    def protocol_note(self, *, complete: bool, asked: str) -> str:
        """What the figures are, and what they are not.

        Args:
            complete: Whether all chips of the split were used.
            asked: Name of the legend that the model was asked for.
        """
        part = "" if complete else "Only a part of the split was used: these are no figures of the benchmark. "
        if asked != self.legend.name:
            part += f"The model was asked for legend {asked}, whose classes were matched with the data set's. "
        return f"{part}{self.note}".strip()
