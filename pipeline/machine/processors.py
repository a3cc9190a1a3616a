"""How many CPUs this process may use: fewer than the machine has under ``taskset``, Slurm, Docker or Kubernetes."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from pipeline.machine.control_groups import cpu_quota


@dataclass(frozen=True)
class UsableCpus:
    """What a run may count on."""

    count: int
    """At least 1."""
    reason: str
    """Why so many, for people."""


def usable_cpus() -> UsableCpus:
    """CPUs of the process's affinity, or fewer where a control group grants the time of fewer.

    A quota is rounded down: 1.5 CPUs carry one model actor, not two that are held up in turns.
    """
    machine = os.cpu_count() or 1
    allowed = _allowed(machine)
    quota = cpu_quota()
    granted = allowed if quota is None else max(1, min(allowed, math.floor(quota + 1e-6)))
    if quota is not None and granted < allowed:
        return UsableCpus(granted, f"the control group grants the time of {quota:g} of {allowed} CPUs")
    if allowed < machine:
        return UsableCpus(allowed, f"the process is bound to {allowed} of {machine} CPUs (affinity)")
    return UsableCpus(allowed, "all CPUs of the machine")


def cpu_count() -> int:
    """Just the number."""
    return usable_cpus().count


def _allowed(machine: int) -> int:
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except (AttributeError, OSError):  # not Linux
        return machine
