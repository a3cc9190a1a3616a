"""The options of ``spex init`` as what a new run file says: what is not given has a sensible value."""

from __future__ import annotations

import datetime as dt
import difflib
from pathlib import Path
from typing import cast, get_args

from pipeline.errors import ConfigError
from pipeline.settings.days import whole_day
from pipeline.settings.new_run_file import NewRun, last_month, name_from, read_bbox
from pipeline.settings.run_file import Provider


def new_run(
    *,
    bbox: str | None,
    region: Path | None,
    start: str | None,
    end: str | None,
    name: str | None,
    provider: str,
    url: str | None,
    today: dt.date | None = None,
) -> NewRun:
    """What the options mean.

    Args:
        bbox: ``W,S,E,N``.
        region: Region file.
        start: First day; default: of the month before ``today``'s.
        end: Last day; default: of the month of ``start``'s first day.
        name: Default: after the region file.
        provider: Name of a provider.
        url: Instead of the provider's address.
        today: Default: today (UTC).

    Raises:
        ConfigError: One of them is wrong; the message names it.
    """
    known = get_args(Provider)
    if provider not in known:
        near = difflib.get_close_matches(provider.lower(), known, n=1)
        raise ConfigError(
            f"--provider {provider[:40]!r} is not known; "
            + (f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}")
        )
    first, last = last_month(today or dt.datetime.now(dt.UTC).date())
    if start is not None:
        first = _day("--start", start)
        last = (first.replace(day=28) + dt.timedelta(days=4)).replace(day=1) - dt.timedelta(days=1)
    if end is not None:
        last = _day("--end", end)
        first = first if start is not None else last.replace(day=1)
    if last < first:
        raise ConfigError(f"--end {last} is before --start {first}")
    return NewRun(
        name=name if name is not None else name_from(region),
        start=first,
        end=last,
        region=region,
        bbox=None if bbox is None else read_bbox(bbox),
        provider=cast("Provider", provider),
        url=url,
    )


def _day(option: str, text: str) -> dt.date:
    try:
        return whole_day(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from None
