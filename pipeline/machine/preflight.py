"""What a run needs of the machine, asked before anything is computed; ``spex doctor`` shows the same answers.

Each question costs milliseconds, leaves nothing behind and never raises: an answer is ok, a warning (it goes on, with
less) or a failure, and those say what mends them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from pipeline.errors import InstallationError
from pipeline.machine import lock
from pipeline.machine.control_groups import memory_limit
from pipeline.machine.processors import usable_cpus
from pipeline.machine.progress import size_text
from pipeline.machine.user_cache import user_cache
from pipeline.machine.wheel_data import leave_out_foreign_data

State = Literal["ok", "warn", "fail"]

LOOPBACK = "127.0.0.1"
SOCKET_PATH_BYTES = 107
"""Longest path of a Unix socket."""
RAY_SOCKET = "/spex-ray-XXXXXXXX/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
"""What stands behind the folder of temporary files in the longest socket path of a local Ray."""
LEAST_TEMPORARY_BYTES = 64 * 2**20
"""Logs and sockets of a local Ray."""
SMALL_MEMORY_BYTES = 2 * 2**30
SMALL_SHARED_BYTES = 2**30
"""The least that a run gives the object store unless it is told otherwise."""
LOOPBACK_S = 5.0
FLOCK_MEND = "mount it with locks (NFS: lockd; Lustre: -o flock), or use a folder on another disk"


@dataclass(frozen=True)
class Check:
    """One answer."""

    subject: str
    state: State
    found: str
    mend: str = ""
    """What to do about it; empty if nothing is wrong."""


def machine_checks() -> list[Check]:
    """All questions of this module that need no folder to be named."""
    return [answered(subject, ask) for subject, ask in _QUESTIONS]


def require_local_ray() -> None:
    """Asks for what a local Ray cannot start without.

    Raises:
        InstallationError: It is missing; the message says the mend.
    """
    require((check_temporary(), check_loopback()))


def require(checks: Iterable[Check]) -> None:
    """Nothing, if no answer is a failure.

    Raises:
        InstallationError: One is; the first is told.
    """
    for check in checks:
        if check.state == "fail":
            raise InstallationError(f"{check.subject}: {check.found}; {check.mend}")


def answered(subject: str, ask: Callable[[], Check]) -> Check:
    """An answer, whatever happens while it is looked for."""
    try:
        return ask()
    except Exception as error:
        return Check(subject, "fail", f"cannot be looked at: {type(error).__name__}: {error}", "see the message")


# --- processors and memory ------------------------------------------------------------------------------------------


def check_cpus() -> Check:
    """Usable CPUs, and why so many."""
    usable = usable_cpus()
    return Check("CPUs", "ok", f"{usable.count} usable: {usable.reason}")


def check_memory() -> Check:
    """Free memory of the machine or the control group, whichever is less."""
    memory, limit = psutil.virtual_memory(), memory_limit()
    free, found = memory.available, f"{size_text(memory.available)} free of {size_text(memory.total)}"
    if limit is not None and limit.free_bytes < free:
        free = limit.free_bytes
        found = f"{size_text(free)} free of {size_text(limit.limit_bytes)} (limit of the control group)"
    if free < SMALL_MEMORY_BYTES:
        return Check("memory", "warn", found, "one model actor takes about 1 GiB: give --actors 1, or more memory")
    return Check("memory", "ok", found)


def check_shared_memory() -> Check:
    """Room in ``/dev/shm``, where Ray keeps blocks on their way."""
    try:
        disk = os.statvfs("/dev/shm")
    except OSError as error:
        return Check("shared memory", "warn", f"/dev/shm: {error.strerror}", "Ray uses slower files instead: mount it")
    free = disk.f_bavail * disk.f_frsize
    if free < SMALL_SHARED_BYTES:
        mend = "set compute.object_store_mb to less, or enlarge it (docker run --shm-size=2g)"
        return Check("shared memory", "warn", f"{size_text(free)} free in /dev/shm", mend)
    return Check("shared memory", "ok", f"{size_text(free)} free in /dev/shm")


# --- folders --------------------------------------------------------------------------------------------------------


def check_temporary() -> Check:
    """A folder in which a local Ray can live."""
    parent, refusals = _session_parent()
    if parent is None:
        mend = "set TMPDIR to a short path on a disk with room (TMPDIR=/var/tmp)"
        return Check("temporary files", "fail", "; ".join(refusals), mend)
    disk = os.statvfs(parent)
    return Check("temporary files", "ok", f"{parent}, {size_text(disk.f_bavail * disk.f_frsize)} free")


def session_parent() -> Path:
    """The folder in which that of a local Ray is made: ``/tmp``, or the first of others that serves.

    Raises:
        InstallationError: None does.
    """
    parent, _ = _session_parent()
    if parent is None:
        require((check_temporary(),))
        raise InstallationError("no folder for temporary files")  # it was there a moment ago
    return parent


def _session_parent() -> tuple[Path | None, list[str]]:
    refusals: list[str] = []
    # /tmp first: a socket path may be 107 bytes long at most, and the TMPDIR of a batch system is often longer.
    for name in dict.fromkeys(("/tmp", os.environ.get("TMPDIR") or "/var/tmp", "/var/tmp", "/dev/shm")):
        refusal = _unfit(Path(name))
        if refusal is None:
            return Path(name), refusals
        refusals.append(refusal)
    return None, refusals


def _unfit(folder: Path) -> str | None:
    if not folder.is_absolute():
        return f"{folder} is no absolute path"
    if len(os.fsencode(folder)) + len(RAY_SOCKET) > SOCKET_PATH_BYTES:
        return f"{folder} is too long for the sockets of Ray"
    problem = _write_problem(folder)
    if problem is not None:
        return problem
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    return None if free >= LEAST_TEMPORARY_BYTES else f"{folder} has {size_text(free)} free"


def check_folder(subject: str, folder: Path) -> Check:
    """Whether files can be written and locked in a folder that is there, or could be made."""
    place = folder.absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        return Check(subject, "fail", f"{place} is no folder", "move it away, or choose another folder")
    problem = _write_problem(place)
    if problem is None:
        disk = os.statvfs(place)
        return Check(subject, "ok", f"{folder}, {size_text(disk.f_bavail * disk.f_frsize)} free")
    mend = FLOCK_MEND if "lock" in problem else "check its rights and its disk, or choose another folder"
    return Check(subject, "fail", problem, mend)


def _write_problem(folder: Path) -> str | None:
    """Why a file cannot be made, written and locked there; None if it can."""
    try:
        with tempfile.TemporaryFile(prefix=".spex-", dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
            lock.hold(file, folder)
    except OSError as error:
        return f"{folder} cannot be used: {error.strerror or error}"
    return None


def check_cache() -> Check:
    """The user's cache folder. Without it a run goes on."""
    folder = user_cache()
    if folder is None:
        mend = "set HOME or XDG_CACHE_HOME to a folder that can be written"
        return Check("cache", "warn", "this process has no home folder: nothing is kept between runs", mend)
    check = check_folder("cache", folder)
    if check.state == "ok":
        return check
    return Check(
        "cache", "warn", f"{check.found}: nothing is kept between runs", "set XDG_CACHE_HOME to another folder"
    )


# --- network and libraries ------------------------------------------------------------------------------------------


def check_loopback() -> Check:
    """Whether this machine reaches itself: the processes of Ray talk so."""
    try:
        with (
            socket.create_server((LOOPBACK, 0)) as server,
            socket.create_connection(server.getsockname(), timeout=LOOPBACK_S),
        ):
            pass
    except OSError as error:
        mend = "bring the loopback interface up (`ip link set lo up`), or start the container with a network"
        return Check("loopback", "fail", f"{LOOPBACK} does not answer: {error.strerror or error}", mend)
    return Check("loopback", "ok", f"{LOOPBACK} answers")


def check_data() -> Check:
    """Variables that name the data of another PROJ or GDAL."""
    foreign = leave_out_foreign_data()
    if not foreign:
        return Check("PROJ and GDAL data", "ok", "no variable of another installation")
    told = " and ".join(f"{name}={value}" for name, value in foreign.items())
    return Check(
        "PROJ and GDAL data", "warn", f"{told} left out: rasterio brings its own", f"unset {' '.join(foreign)}"
    )


def check_user() -> Check:
    """Whether the system knows this user by name: some libraries ask."""
    with contextlib.suppress(ImportError, KeyError):
        import pwd

        return Check("user", "ok", pwd.getpwuid(os.getuid()).pw_name)
    return Check("user", "ok", f"number {os.getuid()}, without a name on this system")


_QUESTIONS: tuple[tuple[str, Callable[[], Check]], ...] = (
    ("user", check_user),
    ("CPUs", check_cpus),
    ("memory", check_memory),
    ("shared memory", check_shared_memory),
    ("temporary files", check_temporary),
    ("loopback", check_loopback),
    ("PROJ and GDAL data", check_data),
    ("cache", check_cache),
)
