"""Whether a process still runs: one that ended and was not reaped yet does not."""

from __future__ import annotations

import psutil

__all__ = ("alive",)


def alive(pid: int) -> bool:
    """Return whether the process runs; a zombie has ended, whoever is slow to reap it."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
