"""What ``spex init`` asks a person who gave no area; a wrong answer is explained and asked for once more."""

from __future__ import annotations

import datetime as dt
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import typer

from pipeline.errors import ConfigError
from pipeline.settings.new_run_file import NewRun, name_from
from pipeline.settings.new_run_options import new_run

Ask = Callable[[str, str | None], str]
"""Question and default → answer."""
_Checked = TypeVar("_Checked")


def someone_can_answer() -> bool:
    """Whether a person sits at both ends: a script is never asked."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr is not None and sys.stderr.isatty()


def on_terminal(question: str, default: str | None) -> str:
    """Asks on standard error, because results go to standard output; the end of input is taken as Ctrl-C."""
    try:
        return str(typer.prompt(question, default=default, err=True)).strip()
    except typer.Abort:
        raise KeyboardInterrupt from None


def questions(
    ask: Ask, tell: Callable[[str], None], *, provider: str, url: str | None, today: dt.date | None = None
) -> NewRun:
    """Area, days and name, one after the other.

    Args:
        ask: Puts a question.
        tell: Says what is wrong with an answer.
        provider: As given on the command line.
        url: As given on the command line.
        today: As in :func:`~pipeline.settings.new_run_options.new_run`.

    Raises:
        ConfigError: ``provider`` is not known.
    """
    month = new_run(bbox=None, region=None, start=None, end=None, name="x", provider=provider, url=url, today=today)

    def with_area(answer: str) -> NewRun:
        region = Path(answer).expanduser()
        if answer.count(",") == 3:
            return new_run(bbox=answer, region=None, start=None, end=None, name=None, provider=provider, url=url)
        if not region.is_file():
            raise ConfigError(f"{answer[:80]!r} is neither a file nor four numbers W,S,E,N, e.g. 4.8,50.5,5.2,50.8")
        return new_run(bbox=None, region=region, start=None, end=None, name=None, provider=provider, url=url)

    area = _until_right(ask, tell, "Area: a box W,S,E,N in degrees, or a region file", None, with_area)

    def dated(start: str | None, end: str | None) -> NewRun:
        return new_run(bbox=None, region=None, start=start, end=end, name="x", provider=provider, url=url, today=today)

    first = _until_right(ask, tell, "First day", month.start.isoformat(), lambda day: dated(day, None))
    days = _until_right(ask, tell, "Last day", first.end.isoformat(), lambda day: dated(first.start.isoformat(), day))
    name = _until_right(ask, tell, "Name of the map", name_from(area.region), _name)
    return NewRun(name, days.start, days.end, area.region, area.bbox, area.provider, area.url)


def _name(answer: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", answer):
        raise ConfigError(f"{answer[:80]!r} cannot name a folder: letters, digits, '-' and '_', e.g. my-map")
    return answer


def _until_right(
    ask: Ask, tell: Callable[[str], None], question: str, default: str | None, check: Callable[[str], _Checked]
) -> _Checked:
    while True:
        try:
            return check(ask(question, default))
        except ConfigError as error:
            tell(str(error))
