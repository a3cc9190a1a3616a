"""What Ray raises, in the words of this project: whose fault it is, and one line for the journal."""

from __future__ import annotations

from pipeline.engine.executor import Trouble
from pipeline.errors import DiskRefusedError, WorkerMismatchError
from spex_core.errors import SpexError

MAX_REASON = 500
"""Longest reason of a failure that is kept, characters."""


def trouble_of(error: Exception) -> Trouble:
    """Whose fault it is that a call failed."""
    from ray import exceptions

    cause = getattr(error, "cause", None)
    if isinstance(cause, WorkerMismatchError | DiskRefusedError):
        return Trouble.FATAL  # its machine, or the disk of the run, would refuse every block
    lost = (exceptions.ObjectLostError, exceptions.GetTimeoutError)  # the answer itself may be what is gone
    if isinstance(error, lost) or isinstance(cause, lost):
        return Trouble.LOST
    if isinstance(error, exceptions.RayTaskError):
        return Trouble.OWN
    worker = (
        exceptions.RayActorError,
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.LocalRayletDiedError,
        exceptions.OutOfMemoryError,
        exceptions.TaskCancelledError,
    )
    return Trouble.WORKER if isinstance(error, worker) else Trouble.OWN


def lost_object(error: Exception) -> str | None:
    """Name (hex) of the object that an error says is gone."""
    inner = getattr(error, "cause", None) or error
    name = getattr(inner, "object_ref_hex", None)
    return name if isinstance(name, str) else None


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
