"""The check of a sentence against the map: every number, class and judgement in it is found again and compared.

Rule 7: a sentence whose number or class is not measured is not printed. The check reads the finished sentence,
not the values it was made from, so it holds for sentences written by rules and by the model alike. Where it cannot tell
what a number means it answers "unsupported": a true sentence may be dropped, a false one is not printed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from pipeline.explain.evidence import ALL_READINGS
from pipeline.explain.statistics import ClassStatistics, RegionStatistics
from spex_core.indices import INDEX_LABELS
from spex_core.legend import Legend

ClaimKind = Literal["area", "share", "patches", "index", "confidence", "observed", "dominance", "familiarity"]

NOTABLE_SHARE = 0.01
"""Classes below this share are not compared with others (lowest confidence)."""
COMPACT_SHARE = 0.6
"""A class whose largest patch holds at least this share of it is "one connected patch"."""
FRAGMENTED_SHARE = 0.15
"""A class whose largest patch holds less than this share of it, in many patches, is "fragmented"."""
FRAGMENTED_PATCHES = 20
UNFAMILIAR_SHARE = 0.1  # from which on an area is said to be unlike the training; known land has 0.02
FULL_SHARE = 0.995
"""Observed share from which an area counts as wholly observed."""

_WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_NUMBER = re.compile(
    r"(?<![\w.,])(?P<sign>[-−+])?(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?P<decimals>\.\d+)?(?![\d])"
    rf"|\b(?P<word>{'|'.join(_WORDS)}|single|half|third|quarter|dozens?|hundreds?|thousands?)\b",
    re.IGNORECASE,
)
_UNIT = re.compile(
    r"\s*(?:(?P<percent>%|percent\b|per cent\b)|(?P<points>percentage points?\b)|(?P<ha>ha\b|hectares?\b)"
    r"|(?P<km2>km²|km2\b|square kilomet(?:er|re)s?\b)"
    r"|(?P<smaller>(?:smaller|other|further) patch(?:es)?\b)|(?P<patches>(?:connected |separate )?patch(?:es)?\b)"
    r"|(?P<observations>clear observations?\b|observations?\b))",
    re.IGNORECASE,
)
_SEPARATOR = re.compile(r"[,;:()]|\band\b")
_BELOW = re.compile(r"\b(?:less than|under|below|fewer than|at most)\s*$", re.IGNORECASE)
_ABOVE = re.compile(r"\b(?:more than|over|above|at least)\s*$", re.IGNORECASE)
_OF_CLASS = re.compile(r"\s*of (?:it|them|its area|their area|this class)\b", re.IGNORECASE)
_INDEX_BEFORE = re.compile(
    rf"\b(?P<label>{'|'.join(re.escape(label) for label in INDEX_LABELS.values())})"
    r"(?:\s+(?:values?|averages|of|is|at|about|around|near|=))*\s*$",
    re.IGNORECASE,
)
_INDEX_OF_LABEL = {label.lower(): name for name, label in INDEX_LABELS.items()}
# Words that say something the statistics hold no answer to: absence, comparison, place, change over time.
_UNCHECKABLE = re.compile(
    r"\b(?:no|not|without|never|none|neither|nor|nothing|absent|lacks?|lacking|except"
    r"|larger|smaller|bigger|wider|fewer|denser|(?:more|less) (?:\w+ )?than (?!\d)"
    r"|(?:north|south|east|west)(?:\w+)?|centre|center|central|left|right|upper|lower|corner|edges?"
    r"|increas\w+|decreas\w+|declin\w+|expan\w+|shr[iu]nk\w*|los[st]\w*|gain\w*|recent\w*|former\w*|since|new(?:ly)?)\b",
    re.IGNORECASE,
)
_UNLIKE = re.compile(r"\b(?:unlike|unfamiliar|unknown to)\b", re.IGNORECASE)
_CHECKED_ELSEWHERE = re.compile(
    r"\bno (?:single |dominant )?class\b|\bcould not be mapped: no usable observation\b|\bsmaller patch(?:es)?\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Claim:
    """One checkable statement of a sentence."""

    text: str
    """The words in the sentence."""
    kind: ClaimKind
    value: float | None
    """As written (areas in ha, shares 0..1); ``None`` for a judgement in words."""
    measured: float | None
    """What the map says; ``None`` where it says nothing on this."""
    supported: bool


@dataclass(frozen=True)
class _Mention:
    start: int
    end: int
    text: str
    code: int


@dataclass(frozen=True)
class _Number:
    start: int
    end: int
    """End of the number and its unit."""
    text: str
    value: float
    tolerance: float
    unit: str


def supported(claims: tuple[Claim, ...]) -> bool:
    """Whether a sentence may be printed: it says something measurable, and all of it holds."""
    return bool(claims) and all(claim.supported for claim in claims)


def check_sentence(
    sentence: str, region: RegionStatistics, legend: Legend, overall: RegionStatistics | None = None
) -> tuple[Claim, ...]:
    """Finds every claim in a sentence and compares it with the region's statistics.

    Args:
        sentence: One sentence; may start with the region's name, which is not read as a claim.
        region: What was measured.
        legend: Gives the class names and nouns to look for.
        overall: Statistics of the whole map, for comparisons.
    """
    return _Sentence(_without_name(sentence, region.name, legend), region, legend, overall).claims()


def _without_name(sentence: str, name: str, legend: Legend) -> str:
    """The sentence without the region's name at its start, unless the word there is a class or part of another word."""
    rest = sentence.removeprefix(name)
    if rest == sentence or rest.startswith(" ("):  # "Mill Lake (12 ha) is ...": how every paragraph opens
        return rest
    is_class = any(m.start == 0 and m.end >= len(name) for m in _mentions(sentence, legend))
    return sentence if is_class or re.match(r"\w", rest) else rest


class _Sentence:
    def __init__(self, text: str, region: RegionStatistics, legend: Legend, overall: RegionStatistics | None) -> None:
        self.text = text
        self.region = region
        self.overall = overall
        self.legend = legend
        self.classes = {c.code: c for c in region.classes}
        self.mentions = tuple(_mentions(text, legend))
        masked = list(text)
        for mention in self.mentions:  # digits inside a class name are no numbers
            masked[mention.start : mention.end] = "\x00" * (mention.end - mention.start)
        self.masked = "".join(masked)
        self.numbers = tuple(_numbers(self.masked))

    def claims(self) -> tuple[Claim, ...]:
        found = [Claim(m.text, "area", None, 0.0, False) for m in self.mentions if m.code not in self.classes]
        found += [self._number(number) for number in self.numbers]
        found += self._judgements()
        if not found:
            found = [Claim(m.text, "area", None, self.classes[m.code].area_ha, True) for m in self.mentions]
        return tuple(found)

    # -- numbers ---------------------------------------------------------------------------------------------------

    def _number(self, number: _Number) -> Claim:
        before, after = self.text[: number.start], self.text[number.end :]
        index = _INDEX_BEFORE.search(before)
        of = self._bound(number)
        if index is not None and not number.unit:
            name = _INDEX_OF_LABEL[index["label"].lower()]
            return self._claim(number, "index", number.value, of.indices.get(name) if of else None, 1.0)
        if number.unit == "percent":
            return self._percent(number, of, after)
        if number.unit == "points":
            return self._points(number, of, after)
        if number.unit in ("ha", "km2"):
            factor = 100.0 if number.unit == "km2" else 1.0
            if re.search(r"\b(?:largest|patch of)\b[^;.]{0,40}$", before):
                return self._claim(
                    number, "patches", number.value * factor, of.largest_patch_ha if of else None, factor
                )
            return self._claim(number, "area", number.value * factor, of.area_ha if of else self._area(), factor)
        if number.unit in ("patches", "smaller"):
            if number.unit == "patches" and re.search(r"\bconnected patch\b", number.text):
                return self._compact(number, of)
            less = 1 if number.unit == "smaller" else 0
            return self._claim(number, "patches", number.value, of.patches - less if of else None, 1.0)
        if number.unit == "observations":
            return self._claim(number, "observed", number.value, self.region.mean_observations, 1.0)
        return Claim(number.text, "area", number.value, None, False)  # a number that means nothing measured

    def _area(self) -> float | None:
        # Without a class before or after it, an area is the region's own.
        return None if self.mentions and self.mentions[0].start == 0 else self.region.area_ha

    def _percent(self, number: _Number, of: ClassStatistics | None, after: str) -> Claim:
        value = number.value / 100
        clause = self._clause(number)
        if _OF_CLASS.match(after):
            measured = of.largest_patch_ha / of.area_ha if of else None
            return self._claim(number, "patches", value, measured, 0.01)
        if _UNLIKE.search(clause):
            return self._claim(number, "familiarity", value, self._unlike_share(number.start, number.end), 0.01)
        if re.search(r"\bconfiden", clause, re.IGNORECASE):
            return self._claim(
                number, "confidence", value, of.mean_confidence if of else self.region.mean_confidence, 0.01
            )
        if re.search(r"\b(?:was|were|could be) (?:observed|mapped)\b", clause):
            return self._claim(number, "observed", value, self.region.observed_share, 0.01)
        return self._claim(number, "share", value, of.share if of else None, 0.01)

    def _clause(self, number: _Number) -> str:
        """What stands between semicolons around a number."""
        return self.text[: number.start].rpartition(";")[2] + self.text[number.start :].partition(";")[0]

    def _unlike_share(self, start: int, end: int) -> float | None:
        """Of the class that is named between the same semicolons, else of the region."""
        start, end = self.text.rfind(";", 0, start), (self.text + ";").find(";", end)
        near = [self.classes.get(m.code) for m in self.mentions if start < m.start < end]
        of = near[0] if near else self.region
        return of.unfamiliar_share if of else None

    def _points(self, number: _Number, of: ClassStatistics | None, after: str) -> Claim:
        sign = {"more": 1, "above": 1, "higher": 1, "less": -1, "below": -1, "lower": -1}
        word = re.match(r"\s*(more|above|higher|less|below|lower)\b", after, re.IGNORECASE)
        if word is None or of is None or self.overall is None:
            return Claim(number.text, "share", number.value / 100, None, False)
        elsewhere = next((c.share for c in self.overall.classes if c.code == of.code), 0.0)
        measured = sign[word[1].lower()] * (of.share - elsewhere)
        return self._claim(number, "share", number.value / 100, measured, 0.01)

    def _compact(self, number: _Number, of: ClassStatistics | None) -> Claim:
        if of is None:
            return Claim(number.text, "patches", number.value, None, False)
        share = of.largest_patch_ha / of.area_ha
        holds = share >= COMPACT_SHARE if re.search(r"\bmost of\b", self.text, re.IGNORECASE) else of.patches == 1
        return Claim(number.text, "patches", number.value, share, holds)

    def _claim(self, number: _Number, kind: ClaimKind, value: float, measured: float | None, factor: float) -> Claim:
        """``factor``: what one written unit is worth in the unit of ``measured``."""
        if measured is None:
            return Claim(number.text, kind, value, None, False)
        before = self.text[: number.start]
        slack = number.tolerance * factor + 1e-9
        if _BELOW.search(before):
            holds = measured < value + 1e-9
        elif _ABOVE.search(before):
            holds = measured > value - 1e-9
        else:
            holds = abs(measured - value) <= slack
        return Claim(number.text, kind, value, float(measured), holds)

    def _bound(self, number: _Number) -> ClassStatistics | None:
        """The class a number speaks of: the one named before it, or right after it if a separator stands before."""
        before = [m for m in self.mentions if m.end <= number.start]
        after = [m for m in self.mentions if m.start >= number.end]
        mention = before[-1] if before else None
        if after:
            gap = self.text[number.end : after[0].start]
            near = len(gap) <= 30 and not _SEPARATOR.search(gap)
            apart = mention is None or _SEPARATOR.search(self.text[mention.end : number.start]) is not None
            inside = "(" in self.text[mention.end : number.start] if mention else False
            if near and apart and not inside:
                mention = after[0]
        return self.classes.get(mention.code) if mention else None

    # -- judgements ------------------------------------------------------------------------------------------------

    def _judgements(self) -> Iterator[Claim]:
        for pattern, judge in self._rules():
            for match in re.finditer(pattern, self.text, re.IGNORECASE):
                claim = judge(match)
                if claim is not None:
                    yield claim
        plain = _CHECKED_ELSEWHERE.sub("", self.masked)
        for match in _UNCHECKABLE.finditer(plain):
            yield Claim(match[0], "dominance", None, None, False)
        for phrase in sorted({r.phrase for r in ALL_READINGS}):
            for match in re.finditer(rf"\({re.escape(phrase)}\)", self.text):
                yield self._reading(match, phrase)

    def _rules(self) -> list[tuple[str, Callable[[re.Match[str]], Claim | None]]]:
        top = self.region.classes[0] if self.region.classes else None
        share = top.share if top else 0.0

        def dominant(match: re.Match[str]) -> Claim:
            near = self._nearest(match)
            return Claim(
                match[0],
                "dominance",
                None,
                near.share if near else None,
                near is not None and near == top and share > 0.5,
            )

        def largest(match: re.Match[str]) -> Claim:
            near = self._nearest(match)
            return Claim(match[0], "dominance", None, near.share if near else None, near is not None and near == top)

        def ordered(match: re.Match[str]) -> Claim:
            areas = [self.classes[m.code].area_ha for m in self.mentions if m.code in self.classes]
            return Claim(match[0], "dominance", None, None, len(areas) > 1 and areas == sorted(areas, reverse=True))

        def lowest(match: re.Match[str]) -> Claim:
            near = self._nearest(match)
            least = min((c.mean_confidence for c in self.region.classes if c.share >= NOTABLE_SHARE), default=None)
            mine = near.mean_confidence if near else None
            return Claim(match[0], "confidence", None, mine, mine is not None and mine == least)

        def fragmented(match: re.Match[str]) -> Claim:
            near = self._nearest(match)
            part = near.largest_patch_ha / near.area_ha if near else None
            holds = near is not None and near.patches >= FRAGMENTED_PATCHES and (part or 0.0) < FRAGMENTED_SHARE
            return Claim(match[0], "patches", None, part, holds)

        def unlike(match: re.Match[str]) -> Claim:
            share = self._unlike_share(match.start(), match.end())
            return Claim(match[0], "familiarity", None, share, share is not None and share >= UNFAMILIAR_SHARE)

        observed = self.region.observed_share
        return [
            (
                r"\bno (?:single )?(?:class dominates|dominant class)\b",
                lambda m: Claim(m[0], "dominance", None, share, share <= 0.5),
            ),
            (
                r"(?<!class )\bdominat(?:ed|es|e)\b|\bmainly\b|\bmostly\b(?! sealed)|\bmajority\b"
                r"|\blargely\b|\bprimarily\b|\bpredominant(?:ly)?\b|\bprevails?\b"
                r"|\bmost of the (?:area|region|land|map)\b",
                dominant,
            ),
            (
                r"\bentirely\b",
                lambda m: Claim(m[0], "dominance", None, share, self._nearest(m) == top and share > 0.99),
            ),
            (r"\blargest class\b|\bmost (?:common|widespread|extensive)\b", largest),
            (r"\bfollowed by\b", ordered),
            (r"\blowest\b", lowest),
            (r"\bfragmented\b", fragmented),
            (_UNLIKE.pattern, unlike),
            (
                r"\b(?:whole|entire) area was observed\b",
                lambda m: Claim(m[0], "observed", 1.0, observed, observed >= FULL_SHARE),
            ),
            (r"\bcould not be mapped\b", lambda m: Claim(m[0], "observed", 0.0, observed, observed == 0.0)),
            (
                r"\boutside the mapped area\b",
                lambda m: Claim(m[0], "area", 0.0, self.region.area_ha, self.region.area_ha == 0.0),
            ),
        ]

    def _nearest(self, match: re.Match[str]) -> ClassStatistics | None:
        """The class a judgement speaks of: after a passive ("dominated by X"), else the closest one."""

        def distance(m: _Mention) -> int:
            return m.start - match.end() if m.start >= match.end() else match.start() - m.end

        close = min(self.mentions, key=distance, default=None)
        return self.classes.get(close.code) if close else None

    def _reading(self, match: re.Match[str], phrase: str) -> Claim:
        before = [m for m in self.mentions if m.end <= match.start()]
        near = self.classes.get(before[-1].code) if before else None
        indices = near.indices if near else {}
        readings = [r for r in ALL_READINGS if r.phrase == phrase]
        values = [indices[r.index] for r in readings if r.index in indices]
        holds = any(r.index in indices and r.holds(indices[r.index]) for r in readings)
        return Claim(phrase, "index", None, values[0] if values else None, holds)


def _mentions(text: str, legend: Legend) -> Iterator[_Mention]:
    names: dict[str, int] = {}
    for c in legend:
        for name in (c.name, c.noun):
            names.setdefault(name.lower(), c.code)
            names.setdefault(name.lower().replace("-", " "), c.code)
    longest_first = sorted(names, key=lambda n: (-len(n), n))
    pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})(?=s?\b|\W|$)s?", re.IGNORECASE)
    for match in pattern.finditer(text):
        word = match[0].lower()
        code = names.get(word, names.get(word.removesuffix("s")))
        if code is not None:
            yield _Mention(match.start(), match.end(), match[0], code)


def _numbers(text: str) -> Iterator[_Number]:
    for match in _NUMBER.finditer(text):
        unit = _UNIT.match(text, match.end())
        kind = (unit.lastgroup or "") if unit else ""
        end = unit.end() if unit else match.end()
        words = text[match.start() : end].strip()
        if match["word"]:
            word = match["word"].lower()
            if word in ("one", "single") and not kind:
                continue  # not a count: "one of", "no single class"
            value = float(_WORDS.index(word) + 1) if word in _WORDS else 1.0
            yield _Number(match.start(), end, words, value, 0.0, kind if word in (*_WORDS, "single") else "")
            continue
        digits, decimals = match["digits"].replace(",", ""), match["decimals"] or ""
        value = float(digits + decimals) * (-1 if match["sign"] in ("-", "−") else 1)
        yield _Number(match.start(), end, words, value, _tolerance(digits, decimals), kind)


def _tolerance(digits: str, decimals: str) -> float:
    """Half a unit of the last digit that was meant; trailing zeros of "1,240 ha" count as rounding, up to 2 %."""
    if decimals:
        return float(0.5 * 10.0 ** -(len(decimals) - 1))
    zeros = len(digits) - len(digits.rstrip("0"))
    return float(max(0.5, min(0.5 * 10.0**zeros, 0.02 * float(digits))))
