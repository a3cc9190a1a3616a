"""How a run tells where it is: bars with rate and time left on a terminal, log lines everywhere else.

Both write to standard error, so that standard output stays free for results (``--json``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from pipeline.machine.addresses import without_secrets
from spex_core.errors import harmless

logger = logging.getLogger("pipeline")

LOG_EVERY_S = 5.0
"""At most one log line per stage in so many seconds (the first and last are always written)."""


class Progress(AbstractContextManager["Progress"], Protocol):
    """What the stations report to. One stage at a time; amounts are whole units."""

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        """Begins a stage of ``total`` units, ``done`` of them finished by an earlier run."""

    def advance(self, amount: int = 1) -> None:
        """Counts finished units of the current stage."""

    def say(self, message: str) -> None:
        """One line that stays on the screen."""

    @contextmanager
    def waiting(self, message: str) -> Iterator[None]:
        """For a block that takes a while and cannot say how far it is: a line, or a spinner on a terminal."""
        self.say(message)
        yield


def duration_text(seconds: float) -> str:
    """``42 s``, ``3 min 05 s`` or ``2 h 07 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size_text(count: float) -> str:
    """Bytes in the unit that keeps them readable, powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def rate_text(units_per_second: float, unit: str) -> str:
    """A rate in the time unit that keeps it readable: ``1.5 blocks/s`` or ``12.0 blocks/min``."""
    return f"{units_per_second:.1f} {unit}/s" if units_per_second >= 1 else f"{units_per_second * 60:.1f} {unit}/min"


class LogProgress(Progress):
    """Plain log lines through :mod:`logging` (logger ``pipeline``), for files, schedulers and notebooks."""

    def __init__(self, every_s: float = LOG_EVERY_S) -> None:
        self._every_s = every_s
        self._stage, self._unit = "", ""
        self._total = self._done = self._inherited = 0
        self._begun = self._last = 0.0

    def __enter__(self) -> LogProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        return None

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self._stage, self._unit, self._total, self._done, self._inherited = stage, unit, total, done, done
        self._begun = self._last = time.monotonic()
        resumed = f" ({done} already done)" if done else ""
        logger.info("%s: %d %s%s", stage, total, unit, resumed)

    def advance(self, amount: int = 1) -> None:
        self._done += amount
        now = time.monotonic()
        if self._done < self._total and now - self._last < self._every_s:
            return
        self._last = now
        logger.info("%s", self._line(now - self._begun))

    def say(self, message: str) -> None:
        logger.info("%s", without_secrets(message))

    def _line(self, seconds: float) -> str:
        rate = (self._done - self._inherited) / max(seconds, 1e-9)
        line = f"{self._stage}: {self._done}/{self._total} {self._unit}, {rate_text(rate, self._unit)}"
        if self._done < self._total and rate > 0:
            return f"{line}, {duration_text((self._total - self._done) / rate)} left"
        return line


class _Count(MofNCompleteColumn):
    """Nothing to count where nobody knows how much there is."""

    def render(self, task: Task) -> Text:
        return Text("") if task.total is None else super().render(task)


class _Time(TimeRemainingColumn):
    """Time left; where it is not known, what has passed."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text(duration_text(task.elapsed or 0.0), style="progress.elapsed")
        return super().render(task)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else rate_text(speed, str(task.fields["unit"])), style="progress.data.speed")


class TerminalProgress(Progress):
    """Bars drawn by rich: spinner, stage, bar, count, rate and time left."""

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            _Count(),
            _Rate(),
            _Time(elapsed_when_finished=True),
            console=console,
            speed_estimate_period=120.0,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> TerminalProgress:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bars.stop()

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self._task = self._bars.add_task(stage, total=total, completed=done, unit=unit)

    def advance(self, amount: int = 1) -> None:
        if self._task is not None:
            self._bars.advance(self._task, amount)

    def say(self, message: str) -> None:
        self._bars.console.print(harmless(without_secrets(message)), markup=False, highlight=False)

    @contextmanager
    def waiting(self, message: str) -> Iterator[None]:
        task = self._bars.add_task(message, total=None, unit="")
        try:
            yield
        finally:
            self._bars.remove_task(task)


class TwofoldProgress(Progress):
    """Told twice: on a terminal, and in lines (of a log file)."""

    def __init__(self, first: Progress, second: Progress) -> None:
        self._both = (first, second)

    def __enter__(self) -> TwofoldProgress:
        for progress in self._both:
            progress.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for progress in self._both:
            progress.__exit__(kind, error, tb)

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        for progress in self._both:
            progress.start(stage, total, unit, done)

    def advance(self, amount: int = 1) -> None:
        for progress in self._both:
            progress.advance(amount)

    def say(self, message: str) -> None:
        for progress in self._both:
            progress.say(message)

    @contextmanager
    def waiting(self, message: str) -> Iterator[None]:
        first, second = self._both
        with first.waiting(message), second.waiting(message):
            yield


def progress_for(console: Console, *, plain: bool = False) -> TerminalProgress | LogProgress:
    """Bars if ``console`` is a terminal and ``plain`` is not asked for, else log lines."""
    return TerminalProgress(console) if console.is_terminal and not plain else LogProgress()
