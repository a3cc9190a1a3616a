"""Control groups of this process (Linux): where a container, a batch system or systemd says how much it may use.

Both versions, and the hybrid of them: a group is found by ``/proc/self/cgroup`` below the mount that
``/proc/self/mountinfo`` names. A limit of any group above holds as well. What cannot be read is no limit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

PROCESS = Path("/proc/self")
UNLIMITED_BYTES = 2**60
"""Version 1 writes a huge number where there is no limit."""


@dataclass(frozen=True)
class MemoryLimit:
    """The tightest limit of the groups."""

    limit_bytes: int
    free_bytes: int
    """What is left of it; pages of files that the kernel can drop at once count as free."""


def cpu_quota(process: Path = PROCESS) -> float | None:
    """CPUs whose time the groups of a process get at most; None where nothing limits it.

    Args:
        process: Its folder of ``/proc``.
    """
    quotas = []
    for folder in _folders("cpu", process):
        with contextlib.suppress(OSError, ValueError, IndexError, ZeroDivisionError):
            if (folder / "cpu.max").exists():
                quota, period = (int(number) for number in (folder / "cpu.max").read_text().split()[:2])
            else:
                quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
            if quota > 0 and period > 0:
                quotas.append(quota / period)
    return min(quotas, default=None)


def memory_limit(process: Path = PROCESS) -> MemoryLimit | None:
    """The tightest memory limit of the groups of a process, by what is left; None where there is none.

    Args:
        process: Its folder of ``/proc``.
    """
    found = []
    for folder in _folders("memory", process):
        with contextlib.suppress(OSError, ValueError):
            if (folder / "memory.max").exists():
                limit, used = _number(folder / "memory.max"), _number(folder / "memory.current")
            else:
                limit, used = _number(folder / "memory.limit_in_bytes"), _number(folder / "memory.usage_in_bytes")
            if 0 < limit < UNLIMITED_BYTES:
                used -= min(used, _droppable(folder))
                found.append(MemoryLimit(limit, max(0, limit - used)))
    return min(found, key=lambda memory: memory.free_bytes, default=None)


def _folders(controller: str, process: Path) -> Iterator[Path]:
    """Folders of the groups that a controller may limit the process by, innermost first."""
    try:
        memberships = (process / "cgroup").read_text().splitlines()
        mounts = (process / "mountinfo").read_text().splitlines()
    except (OSError, ValueError):
        return
    for membership in memberships:
        number, _, rest = membership.partition(":")
        controllers, _, path = rest.partition(":")
        second = number == "0" and not controllers
        if not second and controller not in controllers.split(","):
            continue
        for mount in mounts:
            mounted, _, system = mount.partition(" - ")
            fields, kind = mounted.split(), system.split()
            if len(fields) < 5 or not kind or kind[0] != ("cgroup2" if second else "cgroup"):
                continue
            if not second and controller not in kind[-1].split(","):
                continue
            top = Path(_unescaped(fields[4]))
            inside = _below(_unescaped(fields[3]), path)
            yield from (top / PurePosixPath(*inside[:depth]) for depth in range(len(inside), -1, -1))


def _below(root: str, path: str) -> tuple[str, ...]:
    """Names from a mount's root to a group; none where the group is not below it (a container sees its own as root)."""
    try:
        names = PurePosixPath(path).relative_to(root).parts
    except ValueError:
        return ()
    return () if ".." in names else names


def _unescaped(text: str) -> str:
    """Blanks in a path are written as ``\\040``."""
    return text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _number(path: Path) -> int:
    return int(path.read_text())


def _droppable(folder: Path) -> int:
    """Bytes of files that are cached and not in use."""
    with contextlib.suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name in ("inactive_file", "total_inactive_file"):
                return int(value)
    return 0
