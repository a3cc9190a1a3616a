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
from pipeline.explain.views import Depth, Place, View, choose_views, region_codes, zone_of
from pipeline.records.plan import Window
from pipeline.settings.model import TEXT_CLASSES
from spex_core.answer_check import Claim, check_facts
from spex_core.label_facts import ClassFacts, class_facts
from spex_core.legend import Legend

ASKED_SHARE = 0.05
"""Share of a view from which a class is asked about."""
ABSENT_SHARE = 0.001
"""A class may be called absent from a whole region below this share of it."""
WORDS_VERSION = 1
"""Rises when the same region is asked or checked otherwise."""

FloatArray = npt.NDArray[np.float32]
ReadWindow = Callable[[int, Window], FloatArray]
"""EPSG code of a zone and a window of its grid → its composite, float32 ``[10, h, w]``."""


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
    return f"of its most {place} square of {side_m / 1000:.1f} km"


def words_of(
    region: RegionStatistics,
    geometry: BaseGeometry,
    zones: Sequence[ZoneLayers],
    legend: Legend,
    depth: Depth,
    speaker: Speaker,
    read: ReadWindow,
) -> RegionWords:
    """Asks about one sub-region and checks the answers.

    Args:
        region: Its statistics.
        geometry: Lon/lat.
        zones: Of the map.
        legend: Classes of the map.
        depth: How much is asked.
        speaker: Who answers.
        read: Reads the composite of a window again.

    Raises:
        ReadError: A composite cannot be read.
        StoreError: The map cannot be read.
    """
    zone = zone_of(geometry, zones)
    shares = {c.code: c.share for c in region.classes}
    sentences: list[ModelSentence] = []
    for view in choose_views(geometry, shares, zone, legend, depth):
        codes = region_codes(geometry.intersection(zone.geometry), zone.reader, zone.grid, view.window, legend)
        asked = asked_classes(codes, shares, legend, region.id if not sentences else None)
        if not asked:
            continue
        pixels = read(view.epsg, view.window)
        facts = {code: facts_of(code, codes, pixels, legend) for code in asked}
        nouns = {entry.code: entry.noun for entry in legend}
        questions = [speaker.question(nouns[code], facts[code]) for code in asked]
        step = zone.grid.resolution_m
        answers = speaker.answers(block_means(pixels, view.factor), step * view.factor, questions)
        for code, answer in zip(asked, answers, strict=True):
            side = view.window.height * step
            sentences += judged(answer, code, nouns[code], facts[code], shares.get(code, 0.0), view, side)
    return RegionWords(tuple(sentences))


def asked_classes(
    codes: npt.NDArray[np.uint8], shares: dict[int, float], legend: Legend, absent_for: str | None
) -> list[int]:
    """Classes of a view by share, largest first, and for one region id a class that the region has not."""
    counts = np.bincount(codes.ravel(), minlength=256)
    mapped = sum(int(counts[code]) for code in legend.codes)
    if not mapped:
        return []
    here = [code for code in legend.codes if counts[code] >= ASKED_SHARE * mapped]
    asked = sorted(here, key=lambda code: (-int(counts[code]), code))[:TEXT_CLASSES]
    absent = [code for code in legend.codes if not shares.get(code, 0.0) and not counts[code]]
    if absent_for is not None and absent:
        asked.append(absent[zlib.crc32(absent_for.encode()) % len(absent)])
    return asked


def facts_of(code: int, codes: npt.NDArray[np.uint8], pixels: FloatArray, legend: Legend) -> ClassFacts:
    """What the map says of a class in a window, at its own resolution."""
    others = {entry.noun: codes == entry.code for entry in legend if entry.code != code}
    return class_facts(codes == code, pixels, others, codes != legend.nodata)


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


def block_means(pixels: FloatArray, factor: int) -> FloatArray:
    """Means of square blocks of what was measured; NaN where nothing was. Sides are multiples of the factor."""
    if factor == 1:
        return pixels
    bands, height, width = pixels.shape
    blocks = pixels.reshape(bands, height // factor, factor, width // factor, factor)
    known = np.isfinite(blocks)
    count = known.sum((2, 4))
    total = np.where(known, blocks, 0).sum((2, 4), dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


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
