"""The driver among failing machines: thousands of simulated schedules, and proof that they would notice a bad driver.

``make faults`` plays 100,000; a seed that fails is printed and plays again, see :mod:`tests.pipeline.engine.schedules`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline.engine.crew import Crew, CrewSize
from pipeline.engine.driver import Engine
from pipeline.engine.pending import Pending
from pipeline.engine.store_room import StoreRoom
from pipeline.engine.work import Ending, Work, Worklist
from tests.pipeline.engine.machines import FAULTS
from tests.pipeline.engine.schedules import play, play_many

COUNT = int(os.environ.get("SPEX_SCHEDULES", "2000"))


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_no_schedule_of_failures_loses_repeats_or_waits_for_ever() -> None:
    ends, happened, failed = play_many(range(COUNT))
    assert not failed, f"{len(failed)} of {COUNT} seeds failed; the first:\nseed {failed[0][0]}\n{failed[0][1]}"
    assert ends["complete"] > COUNT / 5
    assert all(happened[kind] > COUNT / 50 for kind in ("machine joins", "capacity goes", "idle machine goes"))
    never = [kind for kind in FAULTS if not kind.startswith(("block poisons", "scene")) and not happened[kind]]
    assert not never, "a kind of fault that was never played proves nothing"


def test_a_seed_plays_the_same_schedule_again() -> None:
    assert [play(seed) for seed in range(50)] == [play(seed) for seed in range(50)]


def _ready_without_its_needs(self: Worklist, work: Work) -> bool:
    return work.wanted and work.ending is Ending.OPEN and work.layers is not None and work.key[1] in work.pieces


def _retries_as_it_was(self: Engine, failure: Any, given: Any) -> None:
    """What is lost stays on the books."""


def _never_overdue(self: Pending, now: float) -> list[Any]:
    return []


def _uncounted(self: Engine, work: Work, failure: Any) -> None:
    self.look_at(work)


def _gives_up_alone(self: Engine, work: Work, reason: str) -> None:
    work.given_up = reason


def _lets_nothing_go(self: Worklist, work: Work) -> None:
    work.layers = None


def _forgets_the_waiting(self: Crew, work: Work) -> None:
    """A block behind one that killed its actor is not sent again."""


def _never_replaced(self: Crew) -> None:
    while len(self._executor.actors) < self.size.least:  # type: ignore[attr-defined]
        self.hire()


PLANTED: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "merges before all pieces are there": (Worklist, "ready", _ready_without_its_needs),
    "does not forget what is lost": (Engine, "forget", _retries_as_it_was),
    "waits for a call that hangs": (Pending, "overdue", _never_overdue),
    "counts no attempts": (Engine, "count", _uncounted),
    "leaves neighbours of a lost block waiting": (Engine, "_give_up", _gives_up_alone),
    "holds pieces of written blocks": (Worklist, "let_go", _lets_nothing_go),
    "loses the block behind": (Crew, "_put_back", _forgets_the_waiting),
    "hires more than it may": (CrewSize, "of", lambda self, blocks: CrewSize(self.least, self.most + 3)),
    "never hires for one that died": (Crew, "adjust", _never_replaced),
    "holds as much as comes": (StoreRoom, "fits", lambda *_: True),
    "never makes room": (StoreRoom, "make", lambda *_: None),
    "never recalls who made room": (StoreRoom, "recall", lambda *_: []),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_driver_with_a_planted_fault_is_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, planted = PLANTED[fault]
    monkeypatch.setattr(owner, name, planted)
    for start in range(0, 1000, 20):
        if play_many(range(start, start + 20))[2]:
            return
    pytest.fail("1,000 schedules did not notice")
