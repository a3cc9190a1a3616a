"""Days of settings files: a date, or a time that stands for a whole day and no other."""

from __future__ import annotations

import datetime as dt
from typing import Any

_DAY = "a day like 2026-06-01 (whole days, UTC)"
_ENDS = (dt.time(0), dt.time(23, 59, 59))
"""Midnight, and what people write for the end of a day; fractions of that second aside."""


def whole_day(value: Any) -> dt.date:
    """A day, from a date, a datetime at its very beginning or end, or the text of one.

    Args:
        value: What the file holds.

    Raises:
        ValueError: It is none, or a part of a day.
    """
    if isinstance(value, str):
        try:
            value = dt.date.fromisoformat(value.strip()) if len(value.strip()) == 10 else _time(value.strip())
        except ValueError:
            raise ValueError(f"{value[:40]!r} is not {_DAY}") from None
    if isinstance(value, dt.datetime):
        if value.utcoffset() or value.time().replace(microsecond=0) not in _ENDS:
            raise ValueError(f"{value.isoformat()} is not {_DAY}: leave the time out")
        return value.date()
    if not isinstance(value, dt.date):  # a bare 2026 or 20260601 would be seconds since 1970
        raise ValueError(f"{str(value)[:40]!r} is not {_DAY}")
    return value


def _time(text: str) -> dt.datetime:
    if len(text) < 16:  # a week, or a year and a month: more than one day
        raise ValueError(text)
    return dt.datetime.fromisoformat(text)
