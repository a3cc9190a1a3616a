"""``report/index.html``: all maps of an output folder on one page, each with its picture and a link to its report.

Made from the items alone, so that whoever publishes last lists what all have published.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pipeline.outputs.assets import ASSETS
from pipeline.outputs.report import page_environment


@dataclass(frozen=True)
class MapEntry:
    """One map on the page."""

    name: str
    """Of the run."""
    start: str
    """First day."""
    end: str
    item: str
    folder: str
    """From the output folder, ``/`` between names."""
    title: str
    crs: str
    observed_share: float | None
    confidence: float | None
    problems: int
    picture: str | None
    """File in its folder; ``None``: it has none."""
    report: str | None


def map_entry(collection_id: str, item: Mapping[str, Any]) -> MapEntry:
    """What the page says of an item, which may be anybody's: what is not there is left out."""
    properties, assets = item.get("properties") or {}, item.get("assets") or {}
    files = {key: f"./{ASSETS[key].file}" for key in ("thumbnail", "report")}
    there = {key: ASSETS[key].file for key, href in files.items() if (assets.get(key) or {}).get("href") == href}
    identity = str(item.get("id"))
    return MapEntry(
        name=str(properties.get("spex:run_name") or properties.get("title") or identity),
        start=str(properties.get("start_datetime") or properties.get("datetime") or "")[:10],
        end=str(properties.get("end_datetime") or properties.get("datetime") or "")[:10],
        item=identity,
        folder=f"{collection_id}/{identity}",
        title=str(properties.get("title") or identity),
        crs=str(properties.get("proj:code") or ""),
        observed_share=_share(properties.get("spex:observed_share")),
        confidence=_share(properties.get("spex:mean_confidence")),
        problems=_count(properties.get("spex:problems")),
        picture=there.get("thumbnail"),
        report=there.get("report"),
    )


def render_index(entries: Iterable[MapEntry]) -> str:
    """The page as HTML: maps by name, the newest first."""
    by_name = sorted(entries, key=lambda e: (e.name, _backwards(e.start), _backwards(e.end), e.item))
    groups = [(name, list(group)) for name, group in groupby(by_name, key=lambda e: e.name)]
    return page_environment().get_template("index.html.j2").render(groups=groups, count=len(by_name))


def _backwards(day: str) -> tuple[int, ...]:
    return tuple(-ord(character) for character in day)


def _share(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
