"""Limits of control groups are found whichever version, container or batch system wrote them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.machine import processors
from pipeline.machine.control_groups import MemoryLimit, cpu_quota, memory_limit
from pipeline.machine.processors import usable_cpus

GIB = 2**30


def process(folder: Path, cgroup: str, mounts: dict[str, tuple[str, str]], files: dict[str, str]) -> Path:
    """A ``/proc/self`` and the groups that it names.

    Args:
        folder: Takes both.
        cgroup: Lines of ``/proc/self/cgroup``.
        mounts: Mount point → (root inside the hierarchy, "cgroup2", or "cgroup" with its controllers).
        files: File of a group, relative → content.
    """
    proc = folder / "proc"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text(cgroup)
    lines = [
        f"{30 + n} 23 0:{n} {root} {str(folder / point).replace(' ', chr(92) + '040')} rw,nosuid - {kind.split()[0]} "
        f"cgroup rw{kind.removeprefix(kind.split()[0]).replace(' ', ',')}"
        for n, (point, (root, kind)) in enumerate(mounts.items())
    ]
    (proc / "mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + "\n".join(lines) + "\n")
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return proc


V2 = {"cg": ("/", "cgroup2")}
CPU = {"cpu": ("/", "cgroup cpu cpuacct"), "memory": ("/", "cgroup memory")}


@pytest.mark.parametrize(
    ("cgroup", "mounts", "files", "quota"),
    [
        ("0::/\n", V2, {"cg/cpu.max": "100000 100000\n"}, 1.0),
        ("0::/\n", V2, {"cg/cpu.max": "max 100000\n"}, None),
        ("0::/user/job\n", V2, {"cg/user/job/cpu.max": "max 100000\n", "cg/user/cpu.max": "350000 100000\n"}, 3.5),
        ("0::/a/b\n", V2, {"cg/a/b/cpu.max": "400000 100000\n", "cg/a/cpu.max": "50000 100000\n"}, 0.5),
        # Docker without a namespace of its own: the mount shows the container's group as its root.
        ("0::/docker/c0ffee\n", {"cg": ("/docker/c0ffee", "cgroup2")}, {"cg/cpu.max": "200000 100000\n"}, 2.0),
        ("0::/../../x\n", V2, {"cg/cpu.max": "200000 100000\n"}, 2.0),
        ("0::/job\n", {"c g": ("/", "cgroup2")}, {"c g/job/cpu.max": "200000 100000\n"}, 2.0),
        (
            "3:cpu,cpuacct:/slurm/job_7\n1:name=systemd:/\n", CPU,
            {"cpu/slurm/job_7/cpu.cfs_quota_us": "-1\n", "cpu/slurm/job_7/cpu.cfs_period_us": "100000\n",
             "cpu/slurm/cpu.cfs_quota_us": "800000\n", "cpu/slurm/cpu.cfs_period_us": "100000\n"}, 8.0,
        ),
        (
            "5:cpu,cpuacct:/docker/ab\n", {"cpu": ("/docker/ab", "cgroup cpu cpuacct")},
            {"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1.5,
        ),
        # Hybrid: version 2 is mounted too, without controllers.
        (
            "4:cpu,cpuacct:/a\n0::/a\n", {**CPU, "cg": ("/", "cgroup2")},
            {"cpu/a/cpu.cfs_quota_us": "300000\n", "cpu/a/cpu.cfs_period_us": "100000\n", "cg/a/cgroup.procs": ""}, 3.0,
        ),
        ("0::/\n", V2, {"cg/cpu.max": "nonsense\n"}, None),
        ("0::/\n", V2, {"cg/cpu.max": "100000 0\n"}, None),
        ("0::/\n", V2, {"cg/cpu.max": "\n"}, None),
        ("0::/\n", {}, {}, None),
        ("nonsense\n:::\n", V2, {}, None),
    ],
)  # fmt: skip
def test_the_tightest_cpu_quota_counts(
    tmp_path: Path, cgroup: str, mounts: dict[str, tuple[str, str]], files: dict[str, str], quota: float | None
) -> None:
    assert cpu_quota(process(tmp_path, cgroup, mounts, files)) == quota


@pytest.mark.parametrize(
    ("cgroup", "mounts", "files", "found"),
    [
        ("0::/\n", V2, {"cg/memory.max": "max\n", "cg/memory.current": "5\n"}, None),
        ("0::/\n", V2, {"cg/memory.max": f"{4 * GIB}\n", "cg/memory.current": "0\n"}, MemoryLimit(4 * GIB, 4 * GIB)),
        # Files that are cached can be dropped: they are not used up.
        (
            "0::/\n", V2,
            {"cg/memory.max": f"{4 * GIB}\n", "cg/memory.current": f"{4 * GIB}\n",
             "cg/memory.stat": f"anon {GIB}\ninactive_file {3 * GIB}\n"}, MemoryLimit(4 * GIB, 3 * GIB),
        ),
        (
            "0::/a/b\n", V2,
            {"cg/a/b/memory.max": f"{8 * GIB}\n", "cg/a/b/memory.current": "0\n",
             "cg/a/memory.max": f"{6 * GIB}\n", "cg/a/memory.current": f"{5 * GIB}\n"}, MemoryLimit(6 * GIB, GIB),
        ),
        (
            "2:memory:/job\n", CPU,
            {"memory/job/memory.limit_in_bytes": f"{GIB}\n", "memory/job/memory.usage_in_bytes": f"{2 * GIB}\n",
             "memory/memory.limit_in_bytes": "9223372036854771712\n", "memory/memory.usage_in_bytes": "1\n"},
            MemoryLimit(GIB, 0),
        ),
    ],
)  # fmt: skip
def test_the_tightest_memory_limit_counts(
    tmp_path: Path, cgroup: str, mounts: dict[str, tuple[str, str]], files: dict[str, str], found: MemoryLimit | None
) -> None:
    assert memory_limit(process(tmp_path, cgroup, mounts, files)) == found


def test_a_process_without_proc_has_no_limit(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "nowhere") is None
    assert memory_limit(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("machine", "affinity", "quota", "count", "word"),
    [
        (96, range(96), None, 96, "all CPUs"),
        (96, (0,), None, 1, "bound to 1 of 96"),
        (96, range(8), 2.0, 2, "grants the time of 2 of 8"),
        (96, range(96), 1.5, 1, "1.5"),
        (96, range(96), 0.25, 1, "0.25"),
        (4, range(2), 64.0, 2, "bound to 2 of 4"),
        (None, (0,), None, 1, "all CPUs"),
    ],
)
def test_usable_cpus_are_the_least_of_machine_affinity_and_quota(
    monkeypatch: pytest.MonkeyPatch, machine: int | None, affinity: range, quota: float | None, count: int, word: str
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: machine)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(affinity))
    monkeypatch.setattr(processors, "cpu_quota", lambda: quota)
    usable = usable_cpus()
    assert usable.count == count
    assert word in usable.reason
