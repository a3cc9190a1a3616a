"""The plain-language explanation of each sub-region, written from measured numbers and checked against them.

Three sentences: what a newspaper could print, what is notable, what to distrust. Everything else is in the table.

Deterministic: the same statistics give the same words. Every sentence passes
:func:`pipeline.explain.claims.check_sentence`; one that does not is dropped and kept in
:attr:`RegionExplanation.dropped`, never printed (rule 7).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pipeline.explain.claims import (
    COMPACT_SHARE,
    FRAGMENTED_PATCHES,
    FRAGMENTED_SHARE,
    FULL_SHARE,
    NOTABLE_SHARE,
    UNFAMILIAR_SHARE,
    Claim,
    check_sentence,
    supported,
)
from pipeline.explain.region_words import RegionWords
from pipeline.explain.statistics import ClassStatistics, MapStatistics, RegionStatistics
from spex_core.legend import Legend

ModelTexts = Mapping[str, Mapping[int, str]]
"""Sub-region id → class code → a sentence in the model's own words."""

_MAIN_SHARE = 0.1
_CONTRAST = 0.2
"""A share that differs so much from the whole map's is what is notable of a region."""
_DOUBTFUL = 0.7


@dataclass(frozen=True)
class Sentence:
    """One checked sentence."""

    text: str
    claims: tuple[Claim, ...]
    by_model: bool = False
    """In the model's own words, rather than written from the numbers."""


@dataclass(frozen=True)
class RegionExplanation:
    """One sub-region in words and numbers."""

    statistics: RegionStatistics
    sentences: tuple[Sentence, ...]
    dropped: tuple[Sentence, ...]
    """Sentences that the map does not support; not part of :attr:`text`."""
    words: RegionWords | None = None
    """What the model wrote about it; None where it was not asked."""

    @property
    def text(self) -> str:
        """The paragraph."""
        return " ".join(s.text for s in self.sentences)

    @property
    def claims(self) -> tuple[Claim, ...]:
        """Claims of every printed sentence, in order."""
        return tuple(c for s in self.sentences for c in s.claims)


def explain_map(
    statistics: MapStatistics, legend: Legend, model_texts: ModelTexts | None = None
) -> tuple[RegionExplanation, ...]:
    """Explains every sub-region of a map, comparing each with the whole where there are several."""
    overall = statistics.overall if len(statistics.regions) > 1 else None
    texts = model_texts or {}
    return tuple(explain_region(r, legend, overall=overall, model_texts=texts.get(r.id)) for r in statistics.regions)


def explain_region(
    region: RegionStatistics,
    legend: Legend,
    *,
    overall: RegionStatistics | None = None,
    model_texts: Mapping[int, str] | None = None,
) -> RegionExplanation:
    """Writes the paragraph of one sub-region.

    Args:
        region: Its statistics.
        legend: Class names and nouns.
        overall: The whole map, for a comparison; ``None`` leaves it out.
        model_texts: Class code → sentence by the model; kept only where every claim in it is supported.
    """
    kept: list[Sentence] = []
    dropped: list[Sentence] = []
    written = [(text, False) for text in _sentences(region, legend, overall)]
    written += [(" ".join(text.split()), True) for _, text in sorted((model_texts or {}).items())]
    for text, by_model in written:
        sentence = Sentence(text, check_sentence(text, region, legend, overall), by_model)
        (kept if supported(sentence.claims) else dropped).append(sentence)
    return RegionExplanation(region, tuple(kept), tuple(dropped))


def format_area(area_ha: float) -> str:
    """Three digits at most; square kilometres from 10,000 ha on: ``4.2 ha``, ``1,240 ha``, ``124 km²``."""
    if area_ha >= 10_000:
        return f"{_significant(area_ha / 100):,.0f} km²"
    if area_ha >= 9.95:
        return f"{_significant(area_ha):,.0f} ha"
    if area_ha >= 0.995:
        return f"{area_ha:.1f} ha"
    return f"{area_ha:.2f} ha"


def format_share(share: float) -> str:
    """Whole percent; the ends are named rather than rounded away: ``0%``, ``less than 1%``, ``more than 99%``."""
    if share >= 1.0 - 1e-9:
        return "100%"
    if share > 0.99:
        return "more than 99%"
    if share <= 0.0:
        return "0%"
    if share < 0.01:
        return "less than 1%"
    return f"{share * 100:.0f}%"


def _significant(value: float) -> float:
    digits = 2 - math.floor(math.log10(value))
    return round(value, min(digits, 0))


# -- sentences ---------------------------------------------------------------------------------------------------------


def _sentences(region: RegionStatistics, legend: Legend, overall: RegionStatistics | None) -> Iterator[str]:
    if not region.area_ha:
        yield f"{region.name} lies outside the mapped area, or between the centres of its pixels."
        return
    if not region.classes:
        opening = f"{region.name} ({format_area(region.area_ha)})"
        yield f"{opening} could not be mapped: no usable observation reached the map."  # clouds, gaps or failed blocks
        return
    words = {c.code: _Words.of(c.name) for c in legend}
    yield _composition(region, words)
    yield from _notable(region, overall, words)
    yield f"{_observed(region)}; {_confidence(region, words)}{_unfamiliar(region)}."


@dataclass(frozen=True)
class _Words:
    """A class in running text."""

    name: str
    plural: bool

    @classmethod
    def of(cls, name: str) -> _Words:
        # Proper nouns of a legend are rare, adjectives are not: "built-up" needs its noun.
        lower = name if name.isupper() else name[:1].lower() + name[1:]
        if lower.endswith("-up"):
            return cls(f"{lower} land", False)
        return cls(lower, lower.endswith("s") and not lower.endswith(("ss", "us", "is")))

    def verb(self, singular: str, plural: str) -> str:
        return plural if self.plural else singular

    @property
    def start(self) -> str:
        return self.name[:1].upper() + self.name[1:]


def _composition(region: RegionStatistics, words: Mapping[int, _Words]) -> str:
    opening = f"{region.name} ({format_area(region.area_ha)})"
    top, *rest = region.classes
    if top.share > 0.99:
        if top.share >= 1.0 - 1e-9:
            return f"{opening} is entirely {words[top.code].name}."
        return f"{opening} is almost entirely {words[top.code].name} ({format_share(top.share)} of the mapped area)."
    following = [c for c in rest if c.share >= _MAIN_SHARE][:3]
    if top.share > 0.5:
        text = f"{opening} is dominated by {words[top.code].name}, {format_share(top.share)} of the mapped area"
        if following:
            text += ", followed by " + _enumerate(f"{words[c.code].name} ({format_share(c.share)})" for c in following)
        return text + "."
    parts = [
        f"{words[c.code].name} {words[c.code].verb('covers', 'cover') + ' ' if i == 0 else ''}"
        f"{format_share(c.share)}{' of the mapped area' if i == 0 else ''}"
        for i, c in enumerate([top, *following])
    ]
    return f"{opening} has no dominant class: {_enumerate(parts)}."


def _notable(region: RegionStatistics, overall: RegionStatistics | None, words: Mapping[int, _Words]) -> Iterator[str]:
    """What is most unlike the whole map, if anything is by much; else how the largest class lies."""
    found = _contrast(region, overall, words)
    if found is not None:
        yield found
    elif (top := region.classes[0]).share >= _MAIN_SHARE:
        yield _pattern(top, words[top.code])


def _pattern(c: ClassStatistics, words: _Words) -> str:
    name, largest = words.name, format_area(c.largest_patch_ha)
    part = c.largest_patch_ha / c.area_ha
    it = words.verb("it", "them")
    if c.patches == 1:
        return f"All {name} {words.verb('lies', 'lie')} in one connected patch of {largest}."
    if part >= COMPACT_SHARE:
        others = "one smaller patch" if c.patches == 2 else f"{c.patches - 1:,} smaller patches"
        return (
            f"Most of the {name} {words.verb('lies', 'lie')} in one connected patch of {largest} "
            f"({format_share(part)} of {it}); the rest forms {others}."
        )
    if part < FRAGMENTED_SHARE and c.patches >= FRAGMENTED_PATCHES:
        return (
            f"{words.start} {words.verb('is', 'are')} fragmented: {c.patches:,} patches, the largest of {largest} "
            f"({format_share(part)} of {it})."
        )
    return (
        f"{words.start} {words.verb('forms', 'form')} {c.patches:,} patches; the largest, {largest}, holds "
        f"{format_share(part)} of {it}."
    )


def _contrast(region: RegionStatistics, overall: RegionStatistics | None, words: Mapping[int, _Words]) -> str | None:
    if overall is None:
        return None
    elsewhere = {c.code: c.share for c in overall.classes}
    contrasts = [(c.share - elsewhere.get(c.code, 0.0), c) for c in region.classes]
    difference, c = max(contrasts, key=lambda pair: (abs(pair[0]), -pair[1].code))
    if abs(difference) < _CONTRAST:
        return None
    direction = "above" if difference > 0 else "below"
    return (
        f"The share of {words[c.code].name} lies {abs(difference) * 100:.0f} percentage points {direction} that of "
        "the whole map."
    )


def _observed(region: RegionStatistics) -> str:
    per_pixel = f"{region.mean_observations:.1f} clear observations per pixel on average"
    if region.observed_share >= FULL_SHARE:
        return f"The whole area was observed, with {per_pixel}"
    share = format_share(region.observed_share)
    if region.observed_share < 0.8:
        return f"Only {share} of the area was observed; all other figures describe that part ({per_pixel})"
    return f"{share[:1].upper()}{share[1:]} of the area was observed, with {per_pixel}"


def _confidence(region: RegionStatistics, words: Mapping[int, _Words]) -> str:
    share = format_share(region.mean_confidence)
    if region.mean_confidence < _DOUBTFUL:
        return f"mean confidence is only {share}: treat this area as provisional"
    notable = [c for c in region.classes if c.share >= NOTABLE_SHARE]
    least = min(notable, key=lambda c: (c.mean_confidence, c.code), default=None)
    if least is None or len(notable) == 1 or least.mean_confidence >= _DOUBTFUL:
        return f"mean confidence is {share}"
    lowest = f"{words[least.code].name} ({format_share(least.mean_confidence)})"
    return f"mean confidence is {share}, lowest for {lowest}: read that class with care"


def _unfamiliar(region: RegionStatistics) -> str:
    if region.unfamiliar_share is None or region.unfamiliar_share < UNFAMILIAR_SHARE:
        return ""
    share = format_share(region.unfamiliar_share)
    return f"; {share} of the mapped area is unlike anything this model was trained on: its classes there are guesses"


def _enumerate(parts: Iterable[str]) -> str:
    items = list(parts)
    if len(items) < 2:
        return "".join(items)
    # "snow and ice" inside a list would read as two items
    joint = ", and " if any(" and " in item for item in items) and len(items) > 1 else " and "
    return ", ".join(items[:-1]) + joint + items[-1]
