"""What it means when a run's state cannot be written: this block's bad luck, or the end of the run."""

from __future__ import annotations

import errno
from pathlib import Path

from pipeline.errors import DiskRefusedError, StoreError

_WHOLE_DISK = {
    errno.ENOSPC: "is full: free some space",
    errno.EDQUOT: "has no quota left: free some space, or ask for more",
    errno.EROFS: "is read-only: make it writable",
    errno.EFBIG: "takes no files of this size: raise the limit (ulimit -f)",
}


def write_error(what: str, error: Exception, folder: Path) -> StoreError:
    """The error to raise for something that could not be written.

    Args:
        what: Names it.
        error: What the system said.
        folder: Of the run.

    Returns:
        A :class:`~pipeline.errors.DiskRefusedError` if nothing else could be written there either.
    """
    advice = _WHOLE_DISK.get(getattr(error, "errno", None) or 0)
    if advice is None:
        return StoreError(f"{what} cannot be written: {error}")
    return DiskRefusedError(
        f"{what} cannot be written: the disk of {folder} {advice}; blocks finished so far are kept, and the same "
        "command goes on from there"
    )
