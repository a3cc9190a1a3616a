"""Calendar periods by name: ``2026-10``, ``2026-Q3``, ``2026``, ``last-month``, ``last-quarter``, ``last-year``."""

from __future__ import annotations

import calendar
import datetime as dt
import re
from dataclasses import dataclass

from pipeline.errors import BadInputError

_NAMED = re.compile(r"(?P<year>\d{4})(?:-(?:(?P<month>\d{2})|Q(?P<quarter>[1-4])))?")
ACCEPTED = "2026-10, 2026-Q3, 2026, last-month, last-quarter, last-year"


class PeriodError(BadInputError):
    """The text names no calendar period."""


@dataclass(frozen=True)
class Period:
    """Whole days of one month, quarter or year (UTC)."""

    label: str
    """Canonical name, e.g. ``"2026-10"``, ``"2026-Q3"``: what folders are called."""
    start: dt.date
    """First day, inclusive."""
    end: dt.date
    """Last day, inclusive."""


def parse_period(text: str, today: dt.date) -> Period:
    """Reads a period.

    Args:
        text: One of the forms above; ``last-...`` is the newest one that lies wholly before ``today``'s own.
        today: What "last" is counted from.

    Raises:
        PeriodError: Not a period.
    """
    match text.strip().lower():
        case "last-month":
            before = today.replace(day=1) - dt.timedelta(days=1)
            return _months(f"{before:%Y-%m}", before.year, before.month, 1)
        case "last-quarter":
            this_quarter = dt.date(today.year, 3 * ((today.month - 1) // 3) + 1, 1)
            before = this_quarter - dt.timedelta(days=1)
            return _quarter(before.year, (before.month - 1) // 3 + 1)
        case "last-year":
            return _months(f"{today.year - 1:04d}", today.year - 1, 1, 12)
    found = _NAMED.fullmatch(text.strip().upper())
    if found is None or int(found["year"]) < dt.MINYEAR:
        raise PeriodError(f"period {text!r} is not known; give one such as {ACCEPTED}")
    year = int(found["year"])
    if found["month"] is not None:
        if not 1 <= int(found["month"]) <= 12:
            raise PeriodError(f"period {text!r} has no month {found['month']}; months are 01 to 12")
        return _months(f"{year:04d}-{found['month']}", year, int(found["month"]), 1)
    if found["quarter"] is not None:
        return _quarter(year, int(found["quarter"]))
    return _months(f"{year:04d}", year, 1, 12)


def _quarter(year: int, quarter: int) -> Period:
    return _months(f"{year:04d}-Q{quarter}", year, 3 * quarter - 2, 3)


def _months(label: str, year: int, first: int, count: int) -> Period:
    last = first + count - 1
    return Period(label, dt.date(year, first, 1), dt.date(year, last, calendar.monthrange(year, last)[1]))
