"""Periods are whole calendar months, quarters and years, whatever the year."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import BadInputError
from workflows.period import parse_period

TODAY = dt.date(2026, 11, 20)


@pytest.mark.parametrize(
    ("text", "today", "label", "start", "end"),
    [
        ("2026-10", TODAY, "2026-10", (2026, 10, 1), (2026, 10, 31)),
        ("2024-02", TODAY, "2024-02", (2024, 2, 1), (2024, 2, 29)),
        ("2023-02", TODAY, "2023-02", (2023, 2, 1), (2023, 2, 28)),
        ("2000-02", TODAY, "2000-02", (2000, 2, 1), (2000, 2, 29)),
        ("1900-02", TODAY, "1900-02", (1900, 2, 1), (1900, 2, 28)),
        ("2026-Q1", TODAY, "2026-Q1", (2026, 1, 1), (2026, 3, 31)),
        ("2026-q4", TODAY, "2026-Q4", (2026, 10, 1), (2026, 12, 31)),
        ("2026", TODAY, "2026", (2026, 1, 1), (2026, 12, 31)),
        ("last-month", TODAY, "2026-10", (2026, 10, 1), (2026, 10, 31)),
        ("last-month", dt.date(2027, 1, 31), "2026-12", (2026, 12, 1), (2026, 12, 31)),
        ("last-month", dt.date(2024, 3, 31), "2024-02", (2024, 2, 1), (2024, 2, 29)),
        ("last-quarter", TODAY, "2026-Q3", (2026, 7, 1), (2026, 9, 30)),
        ("last-quarter", dt.date(2027, 2, 28), "2026-Q4", (2026, 10, 1), (2026, 12, 31)),
        ("LAST-YEAR", dt.date(2027, 1, 1), "2026", (2026, 1, 1), (2026, 12, 31)),
    ],
)
def test_names_whole_calendar_periods(
    text: str, today: dt.date, label: str, start: tuple[int, int, int], end: tuple[int, int, int]
) -> None:
    period = parse_period(text, today)
    assert (period.label, period.start, period.end) == (label, dt.date(*start), dt.date(*end))


@pytest.mark.parametrize(
    "text", ["", "2026-13", "2026-00", "2026-Q5", "2026-Q0", "26-10", "2026-1", "next-month", "../2026-10", "0000-01"]
)
def test_refuses_what_is_no_period_and_says_what_is(text: str) -> None:
    with pytest.raises(BadInputError, match="period"):
        parse_period(text, TODAY)


@settings(max_examples=60)
@given(st.dates(dt.date(1990, 1, 1), dt.date(2100, 12, 31)))
def test_last_period_ends_the_day_before_the_current_one_begins(today: dt.date) -> None:
    for text in ("last-month", "last-quarter", "last-year"):
        last = parse_period(text, today)
        assert last.start <= last.end < today
        following = last.end + dt.timedelta(days=1)
        assert following.day == 1
        assert following <= today
        assert parse_period(last.label, today) == last
