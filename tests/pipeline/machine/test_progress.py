"""Progress: log lines with rate and time left, bars only on a terminal; and the memory of a run."""

from __future__ import annotations

import io
import logging
import subprocess
import sys

import psutil
import pytest
from rich.console import Console

from pipeline.machine.memory import PeakMemory, process_memory, resident_mb
from pipeline.machine.progress import LogProgress, TerminalProgress, duration_text, progress_for, rate_text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (7620, "2 h 07 min")]
)
def test_durations_read_naturally(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_slow_rates_are_per_minute() -> None:
    assert rate_text(2.5, "blocks") == "2.5 blocks/s"
    assert rate_text(0.05, "blocks") == "3.0 blocks/min"


def test_log_lines_tell_count_rate_and_time_left(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    with LogProgress(every_s=0) as progress:
        progress.start("mapping", 4, "blocks", done=1)
        progress.advance()
        progress.advance(2)
    first, middle, last = caplog.messages
    assert first == "mapping: 4 blocks (1 already done)"
    assert "2/4 blocks" in middle
    assert middle.endswith("left")
    assert "4/4 blocks" in last
    assert "left" not in last


def test_log_lines_are_few(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    progress = LogProgress(every_s=3600)
    progress.start("mapping", 1000, "blocks")
    for _ in range(1000):
        progress.advance()
    assert len(caplog.messages) == 2


def test_bars_only_on_a_terminal() -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100)
    assert isinstance(progress_for(terminal, plain=True), LogProgress)
    assert isinstance(progress_for(Console(file=screen)), LogProgress)
    progress = progress_for(terminal)
    assert isinstance(progress, TerminalProgress)
    with progress:
        progress.start("mapping", 2, "blocks")
        progress.advance(2)
        progress.say("[bold] of a scene id stays text")
    assert "2/2" in screen.getvalue()
    assert "[bold]" in screen.getvalue()


def test_peak_memory_counts_child_processes() -> None:
    alone = resident_mb(psutil.Process())
    grab = "x = bytearray(120 * 2**20); print('ready', flush=True); input()"
    with PeakMemory(interval_s=0.05, search_s=0) as peak:
        child = subprocess.Popen([sys.executable, "-c", grab], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        together = resident_mb(psutil.Process())
        child.communicate(b"\n")
    assert together > alone + 100
    assert peak.mb > alone


def test_a_process_knows_its_own_peak() -> None:
    memory = process_memory()
    assert memory.pid == psutil.Process().pid
    assert memory.peak_mb > 10
