"""Where things are kept between runs that can be had again at any time."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path | None:
    """``$XDG_CACHE_HOME/spex``, or ``~/.cache/spex``; it need not exist.

    None where this process has no home: ``HOME`` is not set (or is no path) and the system knows no such user, as in a
    container that was started with a number for a user. Nothing is kept then.
    """
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(chosen):  # any other is to be ignored, says the specification
        return Path(chosen) / "spex"
    home = os.environ.get("HOME", os.path.expanduser("~"))  # the system's word only where it is not set
    return Path(home) / ".cache" / "spex" if os.path.isabs(home) else None
