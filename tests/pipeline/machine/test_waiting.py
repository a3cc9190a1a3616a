"""What cannot say how far it is: a spinner on a terminal that is gone afterwards, a line in a log."""

from __future__ import annotations

import contextlib
import io
import logging

import pytest
from rich.console import Console

from pipeline.machine.progress import LogProgress, TerminalProgress, TwofoldProgress


def test_a_spinner_turns_and_goes_also_after_an_error() -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    with TerminalProgress(screen) as progress:
        with contextlib.suppress(RuntimeError), progress.waiting("starting Ray"):
            progress._bars.refresh()
            assert progress._bars.tasks
            raise RuntimeError
        assert not progress._bars.tasks
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "starting Ray" in shown
    assert "0/?" not in shown, "there is nothing to count"


def test_a_line_in_a_log_and_both_where_both_are(caplog: pytest.LogCaptureFixture) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    with caplog.at_level(logging.INFO, "pipeline"), TwofoldProgress(TerminalProgress(screen), LogProgress()) as both:
        with both.waiting("starting Ray"):
            both.start("mapping", 4, "blocks", 1)
            both.advance(3)
        both.say("done \x1b[31m")
    assert [record.message for record in caplog.records][:2] == ["starting Ray", "mapping: 4 blocks (1 already done)"]
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "4/4" in shown
    assert "done \\x1b[31m" in shown
