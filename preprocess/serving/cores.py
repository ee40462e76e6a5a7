"""How many cores this process may use: affinity and cgroup quota ─▶ available_cores."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ("available_cores",)

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def available_cores(cpu_max: Path = CPU_MAX) -> int:
    """Logical CPUs that the scheduler gives to this process, at least 1.

    Args:
        cpu_max: The control group's limit (version 2), as ``200000 100000`` or ``max 100000``; no
            such file means no limit.
    """
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = cpu_max.read_text(encoding="ascii").split()
    except FileNotFoundError:
        return allowed
    if quota == "max":
        return allowed
    return max(1, min(allowed, math.ceil(int(quota) / int(period))))
