"""Files that are written safely: whole or not at all, on disk before they have their name, and never through a link.

Where a file lies that is to be written, somebody may have put something else: a symbolic or hard link to a file that
matters, a pipe, a device. Nothing of that is ever opened for writing: a new file takes its place by a rename, and what
is written in place (logs, locks) is checked first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

DRAFT_MARK = ".tmp"
"""Stands before the suffix of every draft: ``.<stem>.<random>.tmp<suffix>``."""
_NO_FOLDER_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)
"""Network file systems that flush no folders, and folders that may be written but not listed."""


class ForeignFileError(PermissionError):
    """What is to be written is there already, and is no regular file of this user; ``strerror`` says what and why."""


def open_own(path: Path, mode: Literal["ab", "a+b", "r+b"], *, create: bool = True, buffering: int = -1) -> BinaryIO:
    """Opens a file that is written in place; nothing is truncated.

    Args:
        path: In a folder that is there.
        mode: As of :func:`open`; ``r+b`` starts at the beginning.
        create: Whether a missing file is made.
        buffering: As of :func:`open`.

    Raises:
        ForeignFileError: It is a link, has a second name, is no regular file, or belongs to somebody else.
        OSError: It cannot be opened.
    """
    # Without O_NONBLOCK a pipe that somebody put there would be waited for.
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    flags |= (os.O_CREAT if create else 0) | (os.O_APPEND if "a" in mode else 0)
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO):
            check_own(path)  # says better what is there
        raise
    try:
        _check(os.fstat(descriptor), path)
        return os.fdopen(descriptor, mode, buffering)
    except BaseException:
        os.close(descriptor)
        raise


def check_own(path: Path) -> None:
    """Refuses what :func:`open_own` would refuse, without opening it; a missing file is fine.

    Raises:
        ForeignFileError: See :func:`open_own`.
    """
    with contextlib.suppress(FileNotFoundError):
        _check(os.lstat(path), path)


def _check(found: os.stat_result, path: Path) -> None:
    if stat.S_ISLNK(found.st_mode):
        what = "is a symbolic link, and nothing is written through links"
    elif not stat.S_ISREG(found.st_mode):
        what = "is no regular file"
    elif found.st_nlink > 1:
        what = "has a second name elsewhere (a hard link) that would be written as well"
    # Some file systems give every file to one user: what belongs to the owner of its folder is no more foreign.
    elif found.st_uid not in (os.geteuid(), path.parent.stat().st_uid):
        what = f"belongs to another user (uid {found.st_uid})"
    else:
        return
    raise ForeignFileError(errno.EPERM, f"it {what}; remove it", str(path))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a draft in the same folder; it takes the place of ``path`` if the block ends without an error.

    Raises:
        OSError: The folder cannot be written.
    """
    draft = new_draft(path)
    try:
        yield draft
        put_in_place(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def new_draft(path: Path) -> Path:
    """Makes an empty file beside ``path`` under a name that nobody can guess; the folder is made if it is missing.

    Raises:
        OSError: The folder cannot be written.
    """
    make_folder(path.parent)
    draft = path.with_name(f".{path.stem}.{secrets.token_hex(6)}{DRAFT_MARK}{path.suffix}")
    os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    return draft


def put_in_place(draft: Path, path: Path) -> None:
    """Gives a finished draft (a file or a folder beside ``path``) its name, and returns when both are on disk.

    A link at ``path`` is replaced, not followed.

    Raises:
        OSError: It cannot be flushed or renamed.
    """
    # Renamed before its content is on disk, a power cut would leave an empty file under the final name.
    if draft.is_dir():
        for folder, _, files in os.walk(draft):
            for name in files:
                flush(Path(folder, name))
            flush_folder(Path(folder))
    else:
        flush(draft)
    os.replace(draft, path)
    flush_folder(path.parent)


def flush(path: Path) -> None:
    """Returns when the content of a file is on disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_folder(folder: Path) -> None:
    """Returns when the names in a folder are on disk, where the file system can promise that."""
    try:
        flush(folder)
    except OSError as error:
        if error.errno not in _NO_FOLDER_FLUSH:
            raise


def make_folder(folder: Path) -> None:
    """Makes a folder and its parents where they are missing; their names are on disk afterwards.

    Raises:
        OSError: It cannot be made, or something else has its name.
    """
    missing = []
    above = folder
    while not above.exists():
        missing.append(above)
        above = above.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        flush_folder(new.parent)


def remove(path: Path) -> None:
    """Removes a file, a folder with all it holds, or a link (never what it points to); nothing if there is none.

    Raises:
        OSError: It cannot be removed.
    """
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        return
