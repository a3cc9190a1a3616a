"""What Ray raises, in the words of this project: whose fault it is, and one line for the journal."""

from __future__ import annotations

from spex_core.errors import SpexError

MAX_REASON = 500
"""Longest reason of a failure that is kept, characters."""


def is_lost_object(error: Exception) -> bool:
    """True where the machine that held an object (an argument of a task) is gone; computing it again helps."""
    from ray.exceptions import ObjectFetchTimedOutError, ObjectLostError

    lost = (ObjectLostError, ObjectFetchTimedOutError)
    return isinstance(error, lost) or isinstance(getattr(error, "cause", None), lost)


def plain_error(error: Exception) -> Exception:
    """The application's own error inside Ray's wrapper."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, SpexError) else SpexError(one_line(error))


def one_line(error: Exception) -> str:
    """The error's type and own message, without Ray's remote traceback and advice."""
    cause = getattr(error, "cause", None)
    inner = cause if isinstance(cause, Exception) else error
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    text = " ".join(lines)
    if type(inner).__module__.startswith("ray."):
        # Either a remote traceback, which ends with the error, or a sentence followed by advice to administrators.
        text = lines[-1] if len(lines) > 3 else text.split(". ")[0]
    text = text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}..."
    return f"{type(inner).__name__}: {text}" if text else type(inner).__name__
