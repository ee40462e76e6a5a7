"""Memory of named processes and their descendants, sampled by a process of its own.

MemoryWatcher ──JSON lines──▶ python -m loadtest.memory ──/proc/PID/smaps_rollup──▶ peaks

The proportional set size counts a page that several processes share once in all, so sums are real.
The sampler is not the measured process, whose CPU time it would spoil.
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Self

import psutil

from loadtest.families import owner_of
from loadtest.follower import Follower

__all__ = ("ALL", "MemoryWatcher", "pss_mib", "serve")

ALL = "all"
"""Name under which the sum of all processes is told."""

INTERVAL_S = 0.75
"""A sample of twenty processes costs about 20 ms of CPU time."""


class MemoryWatcher(Follower):
    """Samples while something runs; a context manager that owns the sampling process."""

    def __init__(self) -> None:
        super().__init__("loadtest.memory")

    def __enter__(self) -> Self:
        super().__enter__()
        self.begin({"this": os.getpid()})
        self.end()
        return self

    def begin(
        self,
        named: Mapping[str, int],
        apart: Collection[int] = (),
        interval_s: float = INTERVAL_S,
    ) -> None:
        """Starts sampling.

        Args:
            named: Process ids by name; their descendants count with them.
            apart: Processes that do not count, nor do their descendants, whoever started them.
            interval_s: Seconds between two samples.
        """
        self.say({"named": dict(named), "apart": [*apart], "interval_s": interval_s})

    def end(self) -> dict[str, float]:
        """Takes the last sample; the peak MiB by name, and ``ALL``: the peak of the sum.

        Raises:
            Transient: The sampler died.
        """
        self.say({})
        peaks: dict[str, float] = json.loads(self.hear())
        return peaks


def pss_mib(named: Mapping[str, int], apart: Collection[int] = ()) -> dict[str, float]:
    """Proportional set size now: MiB by name, descendants included, and ``ALL``.

    A process that ends meanwhile counts as nothing.

    Args:
        named: Process ids by name.
        apart: See ``MemoryWatcher.begin``.
    """
    parents = {process.pid: process.info["ppid"] for process in psutil.process_iter(["ppid"])}
    names: dict[int | None, str] = {pid: name for name, pid in named.items()}
    found = dict.fromkeys(named, 0.0)
    borders = {*named.values(), *apart}
    for pid in parents:
        owner = owner_of(pid, parents, borders)
        if owner in names:
            found[names[owner]] += _pss_kib(pid) / 1024
    return found | {ALL: sum(found.values())}


def _pss_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def serve(orders: int, answers: IO[str]) -> None:
    """Follows orders, one JSON object a line, until they end: sample, or tell the peaks.

    Args:
        orders: File descriptor; read without a buffer, in which ``select`` would not see a line.
        answers: Where the peaks go.
    """
    named: dict[str, int] = {}
    apart: list[int] = []
    peaks: dict[str, float] = {}
    interval_s: float | None = None
    unread = b""
    while True:
        if b"\n" not in unread and select.select([orders], [], [], interval_s)[0]:
            came = os.read(orders, 1 << 16)
            if not came:
                return
            unread += came
            continue
        message = None
        if b"\n" in unread:
            line, _, unread = unread.partition(b"\n")
            message = json.loads(line)
        if message:
            named, apart, peaks = message["named"], message["apart"], {}
            interval_s = message["interval_s"]
        for name, mib in pss_mib(named, apart).items():
            peaks[name] = max(round(mib, 1), peaks.get(name, 0.0))
        if message == {}:
            answers.write(json.dumps(peaks) + "\n")
            answers.flush()
            named, interval_s = {}, None


if __name__ == "__main__":
    serve(sys.stdin.fileno(), sys.stdout)
