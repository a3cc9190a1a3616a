"""Which file of this machine a local catalog means: names written as parts of URLs, on Windows, or as folders."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from pipeline.errors import HrefError

_WINDOWS_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+._-]*:")
_INDEX_FILES = ("catalog.json", "collection.json")


def with_slashes(href: str) -> str:
    """A relative href with the separators of URLs in place of those of Windows; a URL as it is.

    Raises:
        HrefError: It is a path on a Windows drive.
    """
    if _WINDOWS_DRIVE.match(href):
        raise HrefError(
            f"href {href[:200]!r} is a path on a Windows drive, which is not on this machine: write hrefs relative to "
            "the document"
        )
    return href if _SCHEME.match(href) else href.replace("\\", "/")


def written_path(folder: Path, href: str) -> Path:
    """The path that a relative href means: as it is written, or percent-decoded where only that is there."""
    literal = folder / href
    decoded = unquote(href)
    if decoded == href or _exists(literal) or not _exists(folder / decoded):
        return literal
    return folder / decoded


def catalog_file(path: Path) -> Path:
    """The file of a catalog that may be named by its folder, percent-encoded, or with the separators of Windows."""
    found = written_path(Path(), str(path))
    if not _exists(found) and "\\" in str(found):
        found = written_path(Path(), str(path).replace("\\", "/"))
    if _exists(found) and found.is_dir():
        return next((found / name for name in _INDEX_FILES if _exists(found / name)), found)
    return found


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or with a zero byte: whoever opens it says so
        return False
