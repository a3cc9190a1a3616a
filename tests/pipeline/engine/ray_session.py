"""What tests see of a local Ray from outside: its processes and the sockets on which they listen."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import psutil

LISTEN = "0A"


def listening(processes: list[psutil.Process]) -> set[tuple[str, str, int]]:
    """Name of the process, address and port of every listening TCP socket, read from the kernel's own tables."""
    sockets: dict[str, tuple[str, int]] = {}
    for table, width in (("tcp", 4), ("tcp6", 16)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address, port = fields[1].split(":")
            if fields[3] == LISTEN:
                sockets[fields[9]] = (_address(address, width), int(port, 16))
    found = set()
    for process in processes:
        with contextlib.suppress(OSError, psutil.Error):
            for descriptor in os.listdir(f"/proc/{process.pid}/fd"):
                with contextlib.suppress(OSError):
                    target = os.readlink(f"/proc/{process.pid}/fd/{descriptor}")
                    inode = target.removeprefix("socket:[").rstrip("]")
                    if target.startswith("socket:[") and inode in sockets:
                        found.add((process.name(), *sockets[inode]))
    return found


def _address(text: str, width: int) -> str:
    import ipaddress

    # The kernel prints words of four bytes in its own byte order (little-endian on the machines that are used here).
    raw = b"".join(bytes.fromhex(text[i : i + 8])[::-1] for i in range(0, 2 * width, 8))
    return str(ipaddress.ip_address(raw))


def seconds_until_gone(processes: list[psutil.Process], limit_s: float) -> float:
    """Seconds until none of the processes lives; ``limit_s`` if one still does then."""
    begun = time.monotonic()
    while time.monotonic() - begun < limit_s:
        if not any(_alive(process) for process in processes):
            return time.monotonic() - begun
        time.sleep(0.05)
    return limit_s


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
