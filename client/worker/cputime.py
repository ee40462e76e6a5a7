"""Shares out the CPU time of a worker and of its isolated children among the attempts in work.

    isolated child ──its own rusage──▶ the attempt whose call it served
    this process ──all its threads──▶ every attempt in work, in equal parts

Threads and the event loop serve all attempts at once, so that their time has no owner: it is
shared, none is lost and none is counted twice. The readers are copies of what imports this module.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ("CpuMeter", "CpuUse", "charge_cpu")


@dataclass(slots=True, eq=False)
class CpuUse:
    """Seconds of cores that an attempt took so far."""

    seconds: float = 0.0


_CURRENT: ContextVar[CpuUse | None] = ContextVar("attempt", default=None)


class CpuMeter:
    """Shares this process's CPU time; what is used while no attempt is in work is nobody's.

    Args:
        clock: CPU seconds of the process so far, all threads.
    """

    def __init__(self, clock: Callable[[], float] = time.process_time) -> None:
        self._clock = clock
        self._seen_s = clock()
        self._inside: list[CpuUse] = []

    @contextmanager
    def attempt(self, use: CpuUse) -> Iterator[None]:
        """Have an attempt take its share until the end, and what its children say they took."""
        self._share()
        self._inside.append(use)
        token = _CURRENT.set(use)
        try:
            yield
        finally:
            _CURRENT.reset(token)
            self._share()
            self._inside.remove(use)

    def _share(self) -> None:
        now_s = self._clock()
        for use in self._inside:
            use.seconds += (now_s - self._seen_s) / len(self._inside)
        self._seen_s = now_s


def charge_cpu(seconds: float) -> None:
    """Add a child's CPU time to the attempt that this task works for, if it is for one."""
    use = _CURRENT.get()
    if use is not None:
        use.seconds += seconds
