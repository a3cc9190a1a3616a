"""Handlers of stop signals: installed where nobody decided otherwise, kept over code that replaces them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.machine.interruption import handlers_kept, interrupt, interruptible


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers[1:]:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def signalled(number: signal.Signals) -> None:
    """Signals this process and gives any of its threads the time to take it."""
    os.kill(os.getpid(), number)
    time.sleep(0.3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stop_signal_interrupts_and_the_default_comes_back(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        signalled(number)
    assert signal.getsignal(number) == signal.SIG_DFL


def test_nohup_and_handlers_of_the_callers_own_stay() -> None:
    heard = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    with interruptible():
        signalled(signal.SIGHUP)
        signalled(signal.SIGTERM)
    assert heard == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_replaced_handlers_come_back_and_a_signal_meanwhile_is_not_lost() -> None:
    signal.signal(signal.SIGTERM, interrupt)

    def replaced() -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))  # as Ray does
        signalled(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt), handlers_kept():
        replaced()
    assert signal.getsignal(signal.SIGTERM) is interrupt


def test_a_child_started_meanwhile_does_not_hear_what_its_group_is_told() -> None:
    code = "import signal; print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))"
    with handlers_kept():
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "SIGTERM" in said
    assert "SIGHUP" in said


def test_an_exit_that_was_meant_for_sigterm_is_an_interruption_and_another_is_not() -> None:
    with pytest.raises(KeyboardInterrupt), handlers_kept():
        raise SystemExit(signal.SIGTERM)
    with pytest.raises(SystemExit), handlers_kept():
        raise SystemExit(1)


def test_a_second_signal_on_the_way_out_ends_at_once(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time\n"
        "from pipeline.machine.interruption import end_at_once_from_now_on\n"
        "end_at_once_from_now_on(); os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 130
