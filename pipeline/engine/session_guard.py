"""Ends what is left of a local Ray when its driver has gone, also by SIGKILL, and removes the session's folder.

Started as a program of its own, ``python session_guard.py FOLDER DRIVER``, with a pipe of the driver as standard input;
it must not import ``pipeline``. Ray ties some of its processes to the driver (Linux); its agents and workers would live
on for up to a minute, with their ports and their memory.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil

TOKEN = Path("auth") / "token"
"""Below the session's folder. The variable that names it is handed down to every process of the session."""
TOKEN_VARIABLE = "RAY_AUTH_TOKEN_PATH"
QUIET_S = 0.3
"""Nothing of a session may be seen for so long before it counts as gone."""
GIVE_UP_S = 20.0


def session_processes(folder: Path, spared: frozenset[int] = frozenset()) -> list[psutil.Process]:
    """Processes of the local Ray whose session lives in ``folder``; never this one.

    A process belongs to it if it is this user's, is marked as Ray's (the session's token in its environment, or the
    title that Ray gives) and has to do with the folder (an open file in it, or a path in its command line). So whoever
    looks at a log of the session is spared, and so is what the driver started for other purposes.
    """
    found = []
    for process in psutil.process_iter():
        if process.pid in spared or process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error, OSError):  # gone meanwhile, a zombie, or not this user's
            if process.uids().real == os.getuid() and _belongs(process, folder):
                found.append(process)
    return found


def _belongs(process: psutil.Process, folder: Path) -> bool:
    inside = f"{folder}{os.sep}"
    command = process.cmdline()
    titled = bool(command) and command[0].startswith("ray::")  # a title overwrites command line and environment
    if not titled and process.environ().get(TOKEN_VARIABLE) != str(folder / TOKEN):
        return False
    return any(inside in word for word in command) or any(f.path.startswith(inside) for f in process.open_files())


def end_session(folder: Path, spared: frozenset[int] = frozenset()) -> int:
    """Kills the processes of a session and removes its folder; harmless when repeated.

    Args:
        folder: The session's.
        spared: Process ids to leave alone: the driver's, while it lives.

    Returns:
        How many processes were ended.
    """
    ended = set()
    give_up = time.monotonic() + GIVE_UP_S
    quiet_since = time.monotonic()
    while time.monotonic() < give_up and time.monotonic() - quiet_since < QUIET_S:
        for process in session_processes(folder, spared):
            with contextlib.suppress(psutil.Error):
                process.kill()  # psutil makes sure by its start time that the id still means this process
                ended.add(process)
            quiet_since = time.monotonic()
        time.sleep(QUIET_S / 3)
    shutil.rmtree(folder, ignore_errors=True)
    return len(ended)


def wait_for_end_of(driver: int) -> None:
    """Returns when the driver closes its end of standard input, or has died.

    Both are looked at: a fork of the driver may still hold the pipe.
    """
    poll = select.poll()
    poll.register(sys.stdin.fileno(), select.POLLIN | select.POLLHUP)
    descriptor = None
    # Not everywhere (macOS, old kernels): there the parent's id is asked for every second.
    with contextlib.suppress(AttributeError, OSError):
        descriptor = os.pidfd_open(driver)
        poll.register(descriptor, select.POLLIN)
    while os.getppid() == driver:
        if poll.poll(None if descriptor is not None else 1000):
            return


def main() -> None:
    """Waits for the driver's end, then cleans up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # whoever signals the driver's group means the driver
        signal.signal(number, signal.SIG_IGN)
    folder, driver = Path(sys.argv[1]), int(sys.argv[2])
    wait_for_end_of(driver)
    end_session(folder, frozenset((driver,)))


if __name__ == "__main__":
    main()
