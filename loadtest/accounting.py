"""CPU seconds of named processes, their descendants included, also those that have ended."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import psutil

from client.errors import Transient
from loadtest.families import owner_of

__all__ = ("Reading", "read_cpu", "spent")


@dataclass(frozen=True)
class Reading:
    """CPU time up to one moment.

    Attributes:
        processes_s: By process id: user and system seconds of the process and of its descendants,
            ended ones included, except of descendants that are named themselves.
        machine_s: Seconds that all cores together were busy since the machine started.
    """

    processes_s: Mapping[int, float]
    machine_s: float


def read_cpu(pids: Collection[int]) -> Reading:
    """Reads the CPU time of processes.

    Nothing is lost when a child ends: its parent's account takes its time over once it has been
    waited for. Resolution is the kernel's clock tick, 10 ms per process.

    Args:
        pids: The named processes.

    Raises:
        Transient: One of them does not live any more.
    """
    totals = dict.fromkeys(pids, 0.0)
    parents: dict[int, int] = {}
    times: dict[int, float] = {}
    for process in psutil.process_iter(["ppid", "cpu_times"]):
        if process.info["cpu_times"] is not None:
            parents[process.pid] = process.info["ppid"]
            times[process.pid] = sum(process.info["cpu_times"][:4])
    for pid, seconds in times.items():
        owner = owner_of(pid, parents, totals)
        if owner is not None:
            totals[owner] += seconds
    ended = sorted(totals.keys() - times.keys())
    if ended:
        raise Transient(f"Expected processes {ended} to live through the run, but they ended.")
    return Reading(totals, _machine_busy_s())


def spent(before: Reading, after: Reading, named: Mapping[str, int]) -> dict[str, float]:
    """Seconds between two readings, by the names of the processes."""
    return {
        name: after.processes_s[pid] - before.processes_s[pid]
        for name, pid in sorted(named.items())
    }


def _machine_busy_s() -> float:
    """Busy seconds of all cores; what a hypervisor took away counts as busy with others."""
    times = psutil.cpu_times()._asdict()
    idle = sum(times.get(name, 0.0) for name in ("idle", "iowait", "guest", "guest_nice"))
    return float(sum(times.values()) - idle)
