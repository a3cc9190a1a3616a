"""Legends: the ordered classes a map is drawn with, read from YAML."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from spex_core.errors import LegendError
from spex_core.indices import SPECTRAL_INDICES
from spex_core.strict_yaml import read_yaml

DEFAULT_LEGEND = "worldcover9"
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class IndexCondition:
    """``low <= index <= high``; ``None`` leaves that side open.

    A bound with a range may follow the image inside it where candidates for the prompts are sought
    (:func:`spex_core.priors.candidate_masks`). The index-only map uses the fixed bounds.
    """

    index: str
    low: float | None
    high: float | None
    low_range: tuple[float, float] | None = None
    """Least and most value of an adapted ``low``; ``None``: it stays."""
    high_range: tuple[float, float] | None = None
    """The same for ``high``."""

    def to_list(self) -> list[Any]:
        """The form of the legend file; without ranges it has three items."""
        ranges = {"low": self.low_range, "high": self.high_range}
        moving = {side: list(span) for side, span in ranges.items() if span is not None}
        return [self.index, self.low, self.high, *([moving] if moving else [])]


@dataclass(frozen=True)
class LegendClass:
    """One land-cover class."""

    code: int
    """Value in the map raster, 0..255, and not the legend's nodata."""
    name: str
    """Name shown to people, e.g. ``"Built-up"``."""
    noun: str
    """Word used in prompts and sentences: "the {noun} regions"."""
    color: str
    """``#rrggbb``."""
    prior: tuple[IndexCondition, ...] = ()
    """Spectral prior: index conditions that all hold for a typical pixel of the class."""

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green, blue, each 0..255."""
        return int(self.color[1:3], 16), int(self.color[3:5], 16), int(self.color[5:7], 16)


@dataclass(frozen=True)
class Legend:
    """Ordered classes; the order is the channel order of every score array."""

    name: str
    title: str
    classes: tuple[LegendClass, ...]
    nodata: int = 0

    def __post_init__(self) -> None:
        if not self.classes:
            raise LegendError(f"legend {self.name!r} has no classes; list at least one under 'classes'")
        if not 0 <= self.nodata <= 255:
            raise LegendError(f"legend {self.name!r}: nodata {self.nodata} must be 0..255, because maps are uint8")
        for field, values in (
            ("code", [str(c.code) for c in self.classes]),
            ("name", [c.name for c in self.classes]),
            ("noun", [c.noun for c in self.classes]),
        ):
            repeated = sorted({v for v in values if values.count(v) > 1})
            if repeated:
                raise LegendError(f"legend {self.name!r} repeats {field} {', '.join(repeated)}; each must be unique")
        for c in self.classes:
            if not 0 <= c.code <= 255 or c.code == self.nodata:
                raise LegendError(
                    f"legend {self.name!r}, class {c.name!r}: code {c.code} must be 0..255 and not nodata {self.nodata}"
                )
            if not c.name.strip() or not c.noun.strip():
                raise LegendError(f"legend {self.name!r}, code {c.code}: 'name' and 'noun' must not be empty")
            if not _COLOR.fullmatch(c.color):
                raise LegendError(f"legend {self.name!r}, class {c.name!r}: color {c.color!r} is not '#rrggbb'")

    def __len__(self) -> int:
        return len(self.classes)

    def __iter__(self) -> Iterator[LegendClass]:
        return iter(self.classes)

    @property
    def codes(self) -> tuple[int, ...]:
        """Raster codes in channel order."""
        return tuple(c.code for c in self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in channel order."""
        return tuple(c.name for c in self.classes)

    def colormap(self) -> dict[int, tuple[int, int, int, int]]:
        """Raster code → RGBA (0..255); nodata is transparent black."""
        return {self.nodata: (0, 0, 0, 0), **{c.code: (*c.rgb, 255) for c in self.classes}}

    def fingerprint(self, *, rules_only: bool = False) -> str:
        """sha256, hex, of what can change a map: codes in their order, nodata, nouns and priors.

        Titles, names and colours are for people; the order of a prior's conditions has no meaning, for all must hold.

        Args:
            rules_only: The map is made by the index rules: no noun is asked for, and bounds do not move.
        """
        classes: list[dict[str, Any]] = []
        for c in self.classes:
            conditions = [p.to_list()[:3] if rules_only else p.to_list() for p in c.prior]
            prior = sorted({json.dumps(condition, sort_keys=True) for condition in conditions})
            classes.append({"code": c.code, "prior": prior} | ({} if rules_only else {"noun": c.noun}))
        return _sha256({"nodata": self.nodata, "classes": classes})

    def digest(self) -> str:
        """sha256 of the whole content, hex: what people see included."""
        return _sha256(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the layout of the YAML file."""
        return {
            "name": self.name,
            "title": self.title,
            "nodata": self.nodata,
            "classes": [
                {
                    "code": c.code,
                    "name": c.name,
                    "noun": c.noun,
                    "color": c.color,
                    "prior": [p.to_list() for p in c.prior],
                }
                for c in self.classes
            ],
        }

    @classmethod
    def from_dict(cls, data: Any, source: str = "legend") -> Legend:
        """Reads the layout of the YAML file.

        Raises:
            LegendError: A field is missing or wrong; the message names the class and field.
        """
        if not isinstance(data, dict) or not isinstance(data.get("classes"), list):
            raise LegendError(f"{source}: a legend is a mapping with 'name' and a list 'classes'")
        nodata = data.get("nodata", 0)
        if isinstance(nodata, bool) or not isinstance(nodata, int):
            raise LegendError(f"{source}: nodata {nodata!r} is not an integer")
        classes = []
        for position, entry in enumerate(data["classes"]):
            where = f"{source}: class {position + 1}"
            if not isinstance(entry, dict):
                raise LegendError(f"{where} is not a mapping")
            missing = [k for k in ("code", "name", "color") if k not in entry]
            if missing:
                raise LegendError(f"{where} lacks {', '.join(missing)}")
            if isinstance(entry["code"], bool) or not isinstance(entry["code"], int):
                raise LegendError(f"{where}: code {entry['code']!r} is not an integer")
            prior = entry.get("prior") or []
            if not isinstance(prior, list):
                raise LegendError(f"{where}: prior {prior!r} is not a list of [index, low, high]")
            name = str(entry["name"])
            classes.append(
                LegendClass(
                    code=entry["code"],
                    name=name,
                    noun=str(entry.get("noun", name.lower())),
                    color=str(entry["color"]),
                    prior=tuple(_condition(p, where) for p in prior),
                )
            )
        name = str(data.get("name", source))
        return cls(name, str(data.get("title", name)), tuple(classes), nodata)

    @classmethod
    def from_yaml(cls, source: str | Path = DEFAULT_LEGEND) -> Legend:
        """Reads a legend file, or a built-in legend by its name (``"worldcover9"``).

        Raises:
            LegendError: No such legend, or the file is malformed or has a field that is not known.
        """
        built_in = resources.files("spex_core") / "legends" / f"{source}.yaml"
        try:
            is_built_in = "/" not in str(source) and "\\" not in str(source) and built_in.is_file()
            with resources.as_file(built_in) if is_built_in else contextlib.nullcontext(Path(source)) as path:
                data = read_yaml(path)
        except yaml.YAMLError as error:
            raise LegendError(f"legend {str(source)!r} is not valid YAML: {error}") from error
        except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a name that cannot be a path
            known = ", ".join(sorted(p.name[:-5] for p in (resources.files("spex_core") / "legends").iterdir()))
            raise LegendError(f"legend {str(source)!r} is neither a readable file nor built in ({known})") from error
        _refuse_unknown(data, str(source))
        return cls.from_dict(data, str(source))


_FIELDS = ("name", "title", "nodata", "classes")
_CLASS_FIELDS = ("code", "name", "noun", "color", "prior")


def _refuse_unknown(data: Any, source: str) -> None:
    """A field of a file that would be read by nobody, with the one that may have been meant."""
    if not isinstance(data, dict):
        return
    classes = data.get("classes")
    entries = enumerate(classes, 1) if isinstance(classes, list) else ()
    for where, fields, known in (
        (source, data, _FIELDS),
        *((f"{source}: class {position}", entry, _CLASS_FIELDS) for position, entry in entries),
    ):
        for field in fields if isinstance(fields, dict) else ():
            if field not in known:
                near = difflib.get_close_matches(str(field).lower(), known, n=1)
                mend = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
                raise LegendError(f"{where} has no field {str(field)[:80]!r}; {mend}")


def _sha256(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _condition(entry: Any, where: str) -> IndexCondition:
    if not isinstance(entry, list) or len(entry) not in (3, 4) or entry[0] not in SPECTRAL_INDICES:
        raise LegendError(
            f"{where}: prior {entry!r} is not [index, low, high] or [index, low, high, {{low: [least, most]}}] "
            f"with index in {SPECTRAL_INDICES}"
        )
    try:
        low, high = (None if v is None else float(v) for v in entry[1:3])
    except (TypeError, ValueError) as error:
        raise LegendError(f"{where}: prior {entry!r} has bounds that are not numbers") from error
    if any(v is not None and not math.isfinite(v) for v in (low, high)):
        raise LegendError(f"{where}: prior {entry!r} has a bound that is not finite; write null for an open side")
    ranges = entry[3] if len(entry) == 4 else {}
    if not isinstance(ranges, dict) or not set(ranges) <= {"low", "high"}:
        raise LegendError(f"{where}: prior {entry!r}: the fourth item is {{low: [least, most], high: [least, most]}}")
    spans = (_range(entry, side, bound, ranges.get(side), where) for side, bound in (("low", low), ("high", high)))
    return IndexCondition(str(entry[0]), low, high, *spans)


def _range(entry: Any, side: str, bound: float | None, span: Any, where: str) -> tuple[float, float] | None:
    """The range that a bound may move in, checked: ``least <= bound <= most``."""
    if span is None:
        return None
    if bound is None:
        raise LegendError(f"{where}: prior {entry!r}: {side} is open (null), so it can have no range")
    if (
        not isinstance(span, list)
        or len(span) != 2
        or not all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in span)
    ):
        raise LegendError(f"{where}: prior {entry!r}: the range of {side} is not [least, most] in numbers")
    least, most = float(span[0]), float(span[1])
    if not least <= bound <= most:
        raise LegendError(f"{where}: prior {entry!r}: {side} {bound:g} lies outside its range {least:g} to {most:g}")
    return least, most
