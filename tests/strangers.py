"""What may lie where a file of ours is to be written, and a victim that must stay as it is."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

CONTENT = b"nobody may write here\n"


def _symbolic(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def _relative(path: Path, victim: Path) -> None:
    path.symlink_to(os.path.relpath(victim, path.parent))


def _chain(path: Path, victim: Path) -> None:
    middle = path.with_name(f"{path.name}.middle")
    middle.symlink_to(victim)
    path.symlink_to(middle)


def _dangling(path: Path, victim: Path) -> None:
    path.symlink_to(victim.with_name("is-not-there"))


def _hard(path: Path, victim: Path) -> None:
    os.link(victim, path)


def _pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path, _: Path) -> None:
    here = os.open(path.parent, os.O_RDONLY)  # a socket's name may be 107 bytes long: bound by its folder's descriptor
    try:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as bound:
            bound.bind(f"/proc/self/fd/{here}/{path.name}")
    finally:
        os.close(here)


def _device(path: Path, _: Path) -> None:
    path.symlink_to("/dev/full")


STRANGERS: dict[str, Callable[[Path, Path], None]] = {
    "symbolic link": _symbolic,
    "relative link": _relative,
    "link to a link": _chain,
    "dangling link": _dangling,
    "hard link": _hard,
    "pipe": _pipe,
    "socket": _socket,
    "link to a device": _device,
}


@contextlib.contextmanager
def untouched(folder: Path) -> Iterator[Path]:
    """A victim in a folder of its own; afterwards folder and file are what they were, to the nanosecond."""
    folder.mkdir(parents=True, exist_ok=True)
    victim = folder / "victim"
    victim.write_bytes(CONTENT)
    victim.chmod(0o640)
    before = snapshot(folder)
    yield victim
    assert snapshot(folder) == before


def snapshot(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Mode, time of change and content of everything below a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and not path.is_symlink() else ""
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_mtime_ns, content)
    return found
