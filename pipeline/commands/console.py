"""Where the commands write: results on standard output, progress and messages on standard error."""

from __future__ import annotations

import logging

from rich.console import Console
from rich.logging import RichHandler

from pipeline.machine.progress import Progress, progress_for


def results_console() -> Console:
    """Standard output; wide enough that a table in a log file is not folded."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)


def progress_shown(plain: bool) -> Progress:
    """Bars on a terminal; else, and with ``--json``, log lines on standard error."""
    console = Console(stderr=True, highlight=False)
    logger = logging.getLogger("pipeline")
    logger.handlers.clear()
    logger.propagate = False
    handler: logging.Handler
    if console.is_terminal and not plain:
        handler = RichHandler(console=console, show_path=False, show_time=False, markup=False)
        logger.setLevel(logging.WARNING)
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
        logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    return progress_for(console, plain=plain)
