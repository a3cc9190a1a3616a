"""What people are told of a run's speed: sums over time, whoever asks however often."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.pace import TELL_EVERY_S, AtWork, Pace


def pace_of(notes: list[tuple[float, AtWork]], actors: int = 2, readers: int = 2, pixels: int = 0) -> Pace:
    pace = Pace(actors, readers)
    for now, state in notes:
        pace.note(now, state)
    pace.pixels = pixels
    return pace


def test_shares_are_time_at_work_since_the_first_tile() -> None:
    pace = pace_of(
        [
            (0.0, AtWork(0, 1, 0)),  # the model is loading
            (10.0, AtWork(1, 1, 0)),
            (20.0, AtWork(2, 2, 0)),
            (30.0, AtWork(0, 0, 2)),
            (40.0, AtWork()),
        ]
    )
    assert pace.shares() == pytest.approx((0.5, 0.5, 1 / 3))


@given(
    st.lists(
        st.tuples(st.floats(0, 1e4), st.builds(AtWork, st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))),
        max_size=30,
    ),
    st.integers(0, 10**9),
)
def test_shares_stay_in_bounds_and_asking_in_between_changes_nothing(
    notes: list[tuple[float, AtWork]], pixels: int
) -> None:
    notes = sorted(notes, key=lambda note: note[0])
    pace = pace_of(notes, 3, 3, pixels)
    assert all(0 <= share <= 1 for share in pace.shares())
    text = pace.text()
    assert "nan" not in text
    assert "inf" not in text
    often = [(now + step / 4 * (later - now), state) for (now, state), later in _with_next(notes) for step in range(4)]
    again = pace_of([*often, *notes[-1:]], 3, 3)
    assert again.shares() == pytest.approx(pace.shares())


def _with_next(notes: list[tuple[float, AtWork]]) -> list[tuple[tuple[float, AtWork], float]]:
    return [(note, after[0]) for note, after in pairwise(notes)]


@pytest.mark.parametrize(
    ("state", "limits"),
    [
        (AtWork(2, 1, 0), "the model limits"),
        (AtWork(1, 2, 0), "reading limits"),
        (AtWork(0, 0, 2), "writing limits"),
        (AtWork(1, 1, 1), "no station limits"),
    ],
)
def test_the_busiest_station_is_named(state: AtWork, limits: str) -> None:
    text = pace_of([(0.0, AtWork(1)), (0.0, state), (100.0, AtWork())], pixels=25_000_000).text()
    assert text.startswith("25.0 Mpx in 1 min 40 s, 0.25 Mpx/s; busy: model ")
    assert limits in text


def test_nothing_is_told_of_nothing_and_not_too_often() -> None:
    pace = Pace(1, 1)
    assert (pace.text(), pace.due(1e6)) == ("", False)
    pace.note(5.0, AtWork(1))
    assert not pace.due(5.0 + TELL_EVERY_S - 1)
    assert pace.due(5.0 + TELL_EVERY_S)
    assert not pace.due(6.0 + TELL_EVERY_S)
