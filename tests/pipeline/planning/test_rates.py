"""What runs tell of the next one's time, and what a file that is not ours can do about it: nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.planning import rates as module
from pipeline.planning.rates import KEPT, LEAST_PIXELS, Rates, RunKind, keep_rates, known_rates

KIND = RunKind("abc", "none", "cpu", "auto, compile auto", 512, 2, 1, 2)
RATES = Rates(12.0, 150_000.0, 3_000_000.0)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "spex" / module.FILE


def test_what_is_kept_is_known_for_its_kind_alone(file: Path) -> None:
    assert known_rates(KIND) is None
    keep_rates(KIND, RATES, 10_000_000)
    assert known_rates(KIND) == RATES
    for change in ({"model": "other"}, {"actors": 1}, {"tile_px": 256}, {"explain": "full"}, {"device": "cuda"}):
        assert known_rates(dataclasses.replace(KIND, **change)) is None, change
    # A whole granule: 12 s, 120.6 Mpx at 0.15 Mpx/s, and 40 s.
    assert RATES.seconds(10_980**2) == pytest.approx(12 + 803.7 + 40.2, abs=0.1)


def test_of_runs_with_other_numbers_of_scenes_the_nearest_tells(file: Path) -> None:
    for scenes in (1, 6, 12):
        keep_rates(dataclasses.replace(KIND, scenes=scenes), dataclasses.replace(RATES, start_s=scenes), LEAST_PIXELS)
    found = {n: known_rates(dataclasses.replace(KIND, scenes=n)) for n in (1, 2, 8, 40)}
    assert {n: rates.start_s for n, rates in found.items() if rates} == {1: 1, 2: 1, 8: 6, 40: 12}


def test_where_every_date_is_classified_more_of_them_take_longer(file: Path) -> None:
    fused = dataclasses.replace(KIND, composite="fuse", scenes=2)
    keep_rates(fused, RATES, LEAST_PIXELS)
    assert known_rates(KIND) is None
    found = known_rates(dataclasses.replace(fused, scenes=6))
    assert found == dataclasses.replace(RATES, pixels_per_s=RATES.pixels_per_s / 3)


def test_a_new_run_counts_half_a_small_one_nothing_and_the_file_stays_small(file: Path) -> None:
    keep_rates(KIND, RATES, LEAST_PIXELS)
    keep_rates(KIND, dataclasses.replace(RATES, start_s=20.0), LEAST_PIXELS)
    keep_rates(KIND, dataclasses.replace(RATES, start_s=9e9), LEAST_PIXELS - 1)
    assert known_rates(KIND) == dataclasses.replace(RATES, start_s=16.0)
    for n in range(KEPT + 20):
        keep_rates(dataclasses.replace(KIND, model=str(n)), RATES, LEAST_PIXELS)
    assert len(json.loads(file.read_text())) == KEPT
    assert known_rates(KIND) is None
    assert known_rates(dataclasses.replace(KIND, model=str(KEPT + 19))) == RATES


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Rates)])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1e300])
def test_rates_that_cannot_be_are_not_kept(file: Path, name: str, value: float) -> None:
    keep_rates(KIND, dataclasses.replace(RATES, **{name: value}), LEAST_PIXELS)
    assert known_rates(KIND) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["kind", "rates", "scenes", "start_s", "pixels_per_s"]) | st.text(max_size=3), inner
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=40) | JSON.map(lambda value: json.dumps([value]).encode()), valid=st.booleans())
def test_a_file_of_anything_is_nothing_known_and_is_replaced(file: Path, content: bytes, valid: bool) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    found: Any = known_rates(KIND)
    assert found is None
    keep_rates(KIND, RATES, LEAST_PIXELS)
    assert known_rates(KIND) == RATES
    file.unlink()


def test_a_cache_that_cannot_be_written_or_is_a_link_costs_nothing(file: Path, tmp_path: Path) -> None:
    file.parent.mkdir()
    foreign = tmp_path / "foreign.json"
    foreign.write_text("[]")
    file.symlink_to(foreign)
    keep_rates(KIND, RATES, LEAST_PIXELS)
    assert foreign.read_text() == "[]"
    assert known_rates(KIND) is None
    file.unlink()
    file.mkdir()
    keep_rates(KIND, RATES, LEAST_PIXELS)
    assert known_rates(KIND) is None
