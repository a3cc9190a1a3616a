"""Folders below an output folder are ours: nothing is written or deleted through a link that somebody put there.

The output folder itself, and all above it, is the user's choice and may be a link. What is checked here is what a
person, an unpacked archive or another program left behind before the run; a program that changes the folder while a
run writes it, with the user's own rights, cannot be kept out.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from pipeline.errors import OutputError
from pipeline.machine import lock
from spex_core.durable_files import flush_folder, make_folder


def own_folder(output: Path, *names: str) -> Path:
    """Makes ``output/name/name...`` where it is missing, and refuses it where it leads elsewhere.

    Args:
        output: Made if it is missing; may be a link.
        names: Folder names below it.

    Returns:
        The folder.

    Raises:
        OutputError: A folder below ``output`` is a link or no folder, or it cannot be made.
    """
    refuse_links(output, "/".join(names))
    folder = output
    try:
        make_folder(output)
        for name in names:
            folder = folder / name
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            flush_folder(folder.parent)
    except OSError as error:
        raise OutputError(f"output folder {folder} cannot be written: {error.strerror or error}") from error
    refuse_links(output, "/".join(names))
    return folder


def refuse_links(output: Path, *folders: str) -> None:
    """Refuses folders that lead elsewhere; what is not there yet is fine.

    Args:
        output: May be a link itself.
        folders: Paths relative to it, ``/`` between names.

    Raises:
        OutputError: A part of a path below ``output`` is a link, or no folder; the message names it.
    """
    for relative in folders:
        path = output
        for name in PurePosixPath(relative).parts:
            path = path / name
            try:
                mode = os.lstat(path).st_mode
            except (FileNotFoundError, NotADirectoryError):
                break
            except OSError as error:
                raise OutputError(f"{path} cannot be looked at: {error.strerror or error}") from error
            if stat.S_ISLNK(mode):
                raise OutputError(
                    f"{path} cannot be written: it is a symbolic link, and nothing is written or deleted through links "
                    "below an output folder; remove it, or give another --output"
                )
            if not stat.S_ISDIR(mode):
                raise OutputError(f"{path} cannot be written: it is no folder; move it away, or give another --output")


def refuse_strangers(folder: Path) -> None:
    """Refuses a folder of ours in which somebody left links, pipes or devices, at any depth.

    Raises:
        OutputError: One was found, or the folder cannot be listed.
    """
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    elif not entry.is_file(follow_symlinks=False):
                        what = "a symbolic link" if entry.is_symlink() else "no regular file"
                        raise OutputError(f"{entry.path} is {what}: the run's own state holds none; remove it")
        except (FileNotFoundError, NotADirectoryError):
            continue  # not made yet, or removed meanwhile by the driver that is at work there
        except OSError as error:
            raise OutputError(f"{folder} cannot be listed: {error.strerror or error}") from error


@contextmanager
def folder_lock(output: Path, *state_folder: str, what: str = "") -> Iterator[None]:
    """Keeps two processes out of one output folder, or one part of it; the kernel drops the lock when its process dies.

    Args:
        output: What is written.
        state_folder: Names of the folder below it that holds the lock.
        what: Of the folder; default: all of it.

    Raises:
        OutputError: The folder cannot be written, or another process is writing it.
    """
    path = own_folder(output, *state_folder) / "lock"
    try:
        held = lock.take(path)
    except lock.LockedError as error:
        place = f"{what} in {output}" if what else f"{output}"
        raise OutputError(f"{place} is being written by {error.holder}; wait for it or give another --output") from None
    except lock.NoLocksError as error:
        raise OutputError(
            f"output folder {output}: {error.strerror}, and nothing would keep two runs from damaging each other's "
            "map; mount it with locks (NFS: lockd; Lustre: -o flock), or give an --output on another disk"
        ) from error
    except OSError as error:
        raise OutputError(f"output folder {output} cannot be written: {path}: {error.strerror or error}") from error
    with held:
        yield
