"""What a model says of a sub-region, in its own words, and which of it the map bears out.

The model is asked about the classes that cover something of a view (:mod:`pipeline.explain.views`), and about one that
the region has not. Its answers are taken apart by the grammar that it was taught (:mod:`spex_core.answer_check`), and
each claim is compared with the same map at full resolution. A sentence is printed if every claim in it holds; the
others are kept with their verdict. Nobody edits what is printed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from shapely.geometry.base import BaseGeometry

from pipeline.explain.speaker import Speaker
from pipeline.explain.statistics import RegionStatistics, ZoneLayers
from pipeline.explain.view_facts import MeasuredView, measure_view
from pipeline.explain.views import Depth, Place, View, choose_views, zone_of
from pipeline.settings.model import TEXT_CLASSES
from spex_core.answer_check import Claim, check_facts
from spex_core.asked_images import AskedImage
from spex_core.label_facts import ClassFacts
from spex_core.legend import Legend

ASKED_SHARE = 0.05
"""Share of a view from which a class is asked about."""
ABSENT_SHARE = 0.001
"""A class may be called absent from a whole region below this share of it."""
WORDS_VERSION = 2
"""Rises when the same region is asked or checked otherwise."""

FloatArray = npt.NDArray[np.float32]
ReadImage = Callable[[View], FloatArray]
"""A view → its composite as the model is to see it, float32 ``[10, h, w]``."""


@dataclass(frozen=True)
class ModelClaim:
    """One claim of a sentence of the model."""

    kind: str
    value: str
    """As the model wrote it."""
    measured: str
    """The same of the map; empty where there is nothing to measure."""
    region_share: float
    """Share of the class in the whole sub-region."""
    holds: bool


@dataclass(frozen=True)
class ModelSentence:
    """One sentence of the model."""

    code: int
    place: Place
    side_m: float
    """Side of the square that was looked at, metres."""
    text: str
    claims: tuple[ModelClaim, ...]
    printed: bool


@dataclass(frozen=True)
class RegionWords:
    """Everything that the model wrote about one sub-region."""

    sentences: tuple[ModelSentence, ...]

    @property
    def printed(self) -> tuple[ModelSentence, ...]:
        """What holds, in the model's order."""
        return tuple(s for s in self.sentences if s.printed)

    @property
    def claims(self) -> tuple[ModelClaim, ...]:
        """All claims, whether they hold or not."""
        return tuple(claim for s in self.sentences for claim in s.claims)

    @property
    def lines(self) -> tuple[tuple[str, str], ...]:
        """What is printed: of which part, and the words."""
        found: dict[tuple[Place, float], list[str]] = {}
        for sentence in self.printed:
            found.setdefault((sentence.place, sentence.side_m), []).append(sentence.text)
        return tuple((place_text(*where), " ".join(said)) for where, said in found.items())


@dataclass(frozen=True)
class Spoken:
    """How much a model has said of a map, and how much of that the map bears out."""

    classes: int
    """That cover at least :data:`ASKED_SHARE` of a sub-region."""
    told_classes: int
    """Of these, with a printed sentence."""
    sentences: int
    printed: int
    claims: int
    supported_claims: int

    @classmethod
    def of(cls, regions: Sequence[tuple[RegionStatistics, RegionWords]]) -> Spoken:
        """Counts of some sub-regions."""
        told = [
            any(s.code == c.code for s in words.printed)
            for region, words in regions
            for c in region.classes
            if c.share >= ASKED_SHARE
        ]
        claims = [claim.holds for _, words in regions for claim in words.claims]
        return cls(
            classes=len(told),
            told_classes=sum(told),
            sentences=sum(len(words.sentences) for _, words in regions),
            printed=sum(len(words.printed) for _, words in regions),
            claims=len(claims),
            supported_claims=sum(claims),
        )

    @property
    def told(self) -> float:
        """Share of the classes that have a sentence, 0..1."""
        return self.told_classes / max(self.classes, 1)

    @property
    def supported(self) -> float:
        """Share of the claims that hold, 0..1."""
        return self.supported_claims / max(self.claims, 1)


def place_text(place: Place, side_m: float) -> str:
    """What a view shows, for people."""
    if place in ("whole", "overview"):
        return "of the sub-region"
    if place == "part":
        return "of its larger part, in one UTM zone"
    return f"of its most {place} square of {side_m / 1000:.1f} km"


@dataclass(frozen=True)
class RegionQuestions:
    """A sub-region, and what a model is asked about it."""

    region: RegionStatistics
    views: tuple[AskedView, ...]


@dataclass(frozen=True)
class AskedView:
    """One image of it, the classes that are asked about, and the facts that answers are held to."""

    view: View
    side_m: float
    codes: tuple[int, ...]
    facts: tuple[ClassFacts, ...]
    image: AskedImage


def questions_of(
    region: RegionStatistics,
    geometry: BaseGeometry,
    zones: Sequence[ZoneLayers],
    legend: Legend,
    depth: Depth,
    speaker: Speaker,
    read: ReadImage,
) -> RegionQuestions:
    """What is asked about one sub-region.

    Args:
        region: Its statistics.
        geometry: Lon/lat.
        zones: Of the map.
        legend: Classes of the map.
        depth: How much is asked.
        speaker: Who is to answer.
        read: Gives the image of a view.

    Raises:
        ReadError: A composite cannot be read.
        StoreError: The map cannot be read.
    """
    zone = zone_of(geometry, zones)
    part = geometry.intersection(zone.geometry)
    shares = {c.code: c.share for c in region.classes}
    nouns = {entry.code: entry.noun for entry in legend}
    views: list[AskedView] = []
    for view in choose_views(geometry, shares, zone, legend, depth):
        measured = measure_view(view, part, zone, legend)
        codes = asked_classes(measured, shares, legend, None if views else region.id)
        if not codes:
            continue
        facts = tuple(measured.facts(code, legend) for code in codes)
        questions = tuple(speaker.question(nouns[code], found) for code, found in zip(codes, facts, strict=True))
        step = zone.grid.resolution_m
        image = AskedImage(read(view), step * view.factor, questions)
        views.append(AskedView(view, view.window.height * step, tuple(codes), facts, image))
    return RegionQuestions(region, tuple(views))


def words_of(asked: Sequence[RegionQuestions], legend: Legend, speaker: Speaker) -> list[RegionWords]:
    """Asks about some sub-regions at once and checks the answers.

    Args:
        asked: What is asked; answers may depend on what is asked beside, in their last bits.
        legend: Classes of the map.
        speaker: Who answers.
    """
    nouns = {entry.code: entry.noun for entry in legend}
    answers = iter(speaker.answers([view.image for questions in asked for view in questions.views]))
    said = []
    for questions in asked:
        shares = {c.code: c.share for c in questions.region.classes}
        sentences: list[ModelSentence] = []
        for seen in questions.views:
            for code, facts, answer in zip(seen.codes, seen.facts, next(answers), strict=True):
                share = shares.get(code, 0.0)
                sentences += judged(answer, code, nouns[code], facts, share, seen.view, seen.side_m)
        said.append(RegionWords(tuple(sentences)))
    return said


def asked_classes(
    measured: MeasuredView, shares: dict[int, float], legend: Legend, absent_for: str | None
) -> list[int]:
    """Classes of a view by share, largest first, and for one region id a class that the region has not."""
    counts, mapped = measured.counts, measured.mapped(legend)
    if not mapped:
        return []
    here = [code for code in legend.codes if counts[code] >= ASKED_SHARE * mapped]
    asked = sorted(here, key=lambda code: (-int(counts[code]), code))[:TEXT_CLASSES]
    absent = [code for code in legend.codes if not shares.get(code, 0.0) and not counts[code]]
    if absent_for is not None and absent:
        asked.append(absent[zlib.crc32(absent_for.encode()) % len(absent)])
    return asked


def judged(
    answer: str, code: int, noun: str, facts: ClassFacts, region_share: float, view: View, side_m: float
) -> list[ModelSentence]:
    """Sentences of one answer with their claims.

    A claim of absence must hold in the whole region, too. Sentences say "they" and "another": those that hold are
    printed only after one that names the class, and, for another region of it, the largest.
    """
    found: dict[str, list[Claim]] = {}
    for claim in check_facts(answer, noun, facts):
        found.setdefault(claim.text, []).append(claim)
    said: list[ModelSentence] = []
    printed: list[str] = []
    for text, claims in found.items():
        told = tuple(
            ModelClaim(
                claim.kind,
                claim.value,
                claim.measured,
                round(region_share, 6),
                claim.supported and (claim.kind != "absent" or region_share < ABSENT_SHARE),
            )
            for claim in claims
        )
        stands = noun in text if not printed else True
        if text.startswith("Another "):
            stands = any("largest" in before for before in printed)
        fit = all(claim.holds for claim in told) and stands
        printed += [text] if fit else []
        said.append(ModelSentence(code, view.place, side_m, text, told, fit))
    return said


def words_document(words: RegionWords) -> list[dict[str, Any]]:
    """``model_sentences`` of ``explanations.json``."""
    return [
        {
            "code": s.code,
            "by_model": True,
            "place": s.place,
            "side_m": s.side_m,
            "text": s.text,
            "claims": [
                {
                    "kind": c.kind,
                    "value": c.value,
                    "holds": c.holds,
                    "evidence": {"measured": c.measured, "region_share": c.region_share},
                }
                for c in s.claims
            ],
            "printed": s.printed,
        }
        for s in words.sentences
    ]


def read_words(entries: Sequence[dict[str, Any]]) -> RegionWords:
    """The reverse of :func:`words_document`."""
    return RegionWords(
        tuple(
            ModelSentence(
                code=int(s["code"]),
                place=s["place"],
                side_m=float(s["side_m"]),
                text=str(s["text"]),
                claims=tuple(
                    ModelClaim(
                        str(c["kind"]),
                        str(c["value"]),
                        str(c["evidence"]["measured"]),
                        float(c["evidence"]["region_share"]),
                        bool(c["holds"]),
                    )
                    for c in s["claims"]
                ),
                printed=bool(s["printed"]),
            )
            for s in entries
        )
    )
