"""A few of the documents of :mod:`tests.faults.foreign_documents` each day; ``make faults`` tries twenty thousand."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.faults.foreign_documents import DOORS, Ground, Outcome, make_ground, many
from tests.faults.mutations import changed

EVERY_DAY = {"run file": 25, "plan": 40}
"""Those that take longer than the others."""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """Documents of a real archive and run."""
    return make_ground(tmp_path_factory.mktemp("ground"))


@pytest.mark.parametrize("kind", [kind for kind in DOORS if kind != "checkpoint"])
def test_every_document_is_taken_or_refused_in_one_message(kind: str, ground: Ground) -> None:
    found: Outcome = many(kind, range(EVERY_DAY.get(kind, 80)), ground, limited=False)
    assert not found.faults
    assert found.taken
    assert found.refused


def test_a_change_is_one_and_can_be_played_again() -> None:
    document = {"a": [1, 2, {"b": "c"}], "d": None}
    first = [changed(document, random.Random(seed)) for seed in range(200)]
    assert repr(first) == repr([changed(document, random.Random(seed)) for seed in range(200)])
    assert document == {"a": [1, 2, {"b": "c"}], "d": None}
    assert sum(repr(entry) != repr(document) for entry in first) > 150


def test_what_is_written_elsewhere_is_seen(ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch itself: a door that writes beside its folder is a fault."""
    victim = tmp_path / "victim"
    monkeypatch.setitem(DOORS, "careless", lambda *_: lambda: os.close(os.open(victim, os.O_WRONLY | os.O_CREAT)))
    assert str(victim) in many("careless", range(1), ground, limited=False).faults[0]
