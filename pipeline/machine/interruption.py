"""Signals that ask a process to end become KeyboardInterrupt: one clean way out for Ctrl-C, scheduler and terminal."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

EXIT_INTERRUPTED = 130
"""Exit code after any of :data:`STOP_SIGNALS`."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HELD_SIGNALS = frozenset((signal.SIGTERM, signal.SIGHUP))


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP raise KeyboardInterrupt, as SIGINT does.

    Only where the process has not decided otherwise: a handler of the caller's own and an ignored signal (``nohup``)
    stay. Handlers belong to the main thread; elsewhere nothing is changed.
    """
    installed = install()
    try:
        yield
    finally:
        for number in installed:
            signal.signal(number, signal.SIG_DFL)


def install() -> tuple[signal.Signals, ...]:
    """As :func:`interruptible`, for good: what a command does with its process.

    Returns:
        Signals whose default action was replaced.
    """
    if not _in_main_thread():
        return ()
    replaced = tuple(number for number in STOP_SIGNALS if signal.getsignal(number) == signal.SIG_DFL)
    for number in replaced:
        signal.signal(number, interrupt)
    return replaced


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Puts this process's handlers back after a block that replaces them, and keeps its children out of reach.

    What is started in the block inherits a mask without SIGTERM and SIGHUP: schedulers, ``timeout`` and terminals
    signal a whole group or control group, and it is for this process alone to end its children, in its own order.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS} if _in_main_thread() else {}
    try:
        yield
    except SystemExit as ended:
        if ended.code == signal.SIGTERM:  # what the handler that is replaced here makes of it (Ray's does)
            raise KeyboardInterrupt from None
        raise
    finally:
        for number, handler in handlers.items():
            if handler is not None:  # one that was not installed from Python cannot be put back from here
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Handler: ends the main thread as Ctrl-C does."""
    raise KeyboardInterrupt


def end_at_once_from_now_on() -> None:
    """For a process that is on its way out: what holds up its end may be broken off by one more signal."""
    if _in_main_thread():
        for number in STOP_SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda number, frame: os._exit(EXIT_INTERRUPTED))


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
