"""Where the commands write: results on standard output, progress and messages on standard error and in a log file."""

from __future__ import annotations

import logging
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

from pipeline.errors import ConfigError
from pipeline.machine.addresses import without_secrets
from pipeline.machine.progress import LogProgress, Progress, TerminalProgress, TwofoldProgress
from spex_core.errors import harmless

_LINE, _TIME = "%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"
_log_files: list[logging.Handler] = []
"""The log file of this command, if it has one."""


class _Lines(logging.Formatter):
    """Lines that a terminal shows and does not act on, without secrets: they repeat ids and addresses of others."""

    def format(self, record: logging.LogRecord) -> str:
        return harmless(without_secrets(super().format(record)))


def results_console() -> Console:
    """Standard output; wide enough that a table in a log file is not folded."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)


def progress_shown(
    plain: bool, *, verbose: bool = False, quiet: bool = False, log_file: Path | None = None
) -> Progress:
    """How a command tells where it is: bars on a terminal, else (and with ``plain``) log lines on standard error.

    Args:
        plain: No bars (``--json``).
        verbose: Every step in lines, details too.
        quiet: Warnings and errors only.
        log_file: Lines of every step are appended to it, whatever the screen shows.

    Raises:
        ConfigError: The log file cannot be written.
    """
    console = Console(stderr=True, highlight=False)
    bars = console.is_terminal and not (plain or quiet or verbose)
    logger = logging.getLogger("pipeline")
    for handler in (*logger.handlers, *_log_files):
        handler.close()
    logger.handlers.clear()
    _log_files.clear()
    logger.propagate = False
    screen: logging.Handler
    if bars:
        screen = RichHandler(console=console, show_path=False, show_time=False, markup=False)
        screen.setFormatter(_Lines("%(message)s"))
    else:
        screen = logging.StreamHandler()
        screen.setFormatter(_Lines(_LINE, _TIME))
    told = logging.WARNING if bars or quiet else logging.INFO
    screen.setLevel(logging.DEBUG if verbose else told)
    logger.addHandler(screen)
    if log_file is not None:
        _log_files.append(_opened(log_file))
        logger.addHandler(_log_files[0])
    logger.setLevel(logging.DEBUG if verbose else told if log_file is None else logging.INFO)
    if not bars:
        return LogProgress()
    terminal = TerminalProgress(console)
    return terminal if log_file is None else TwofoldProgress(terminal, LogProgress())


def log_last_words(message: str, error: BaseException | None = None) -> None:
    """What ends a command, into its log file; with where it happened if that is a defect."""
    for handler in _log_files:
        trace = None if error is None else (type(error), error, error.__traceback__)
        handler.handle(logging.LogRecord("pipeline", logging.ERROR, "", 0, message, None, trace))


def _opened(path: Path) -> logging.Handler:
    try:
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"log file {path} cannot be written: {reason}; make its folder, or give another") from error
    handler.setFormatter(_Lines(_LINE, _TIME))
    return handler
