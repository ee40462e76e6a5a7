"""Ends a model's process whose interpreter is stuck, which nothing else would notice."""

from __future__ import annotations

import ctypes
import signal
import threading
import time

__all__ = ("end_when_stuck",)

REARM_S = 1.0


def end_when_stuck(limit_s: float = 10.0) -> None:
    """Ends this process by SIGALRM once no Python thread could run for so long.

    Where the server is killed while an answer is on its way, Triton 24.10's stub waits for it for
    ever and holds the interpreter's lock, for which the thread that sees the server's death waits
    in turn. The kernel's timer needs no lock; a thread that does puts it off again and again.

    The first signal is let pass, the next one ends the process: the timer also runs out while a
    container is paused, and then the thread gets the time between the two to put it off.

    Args:
        limit_s: Longer than anything holds the lock in good health.
    """
    threading.Thread(target=_put_off, args=(limit_s,), daemon=True).start()


def _put_off(limit_s: float) -> None:
    libc = ctypes.CDLL(None)
    # sysv_signal(3): the handler, here a function that does nothing, serves once; the default
    # action, which ends the process, follows it.
    harmless = ctypes.cast(libc.getpid, ctypes.c_void_p)
    while True:
        libc.sysv_signal(int(signal.SIGALRM), harmless)
        signal.setitimer(signal.ITIMER_REAL, limit_s * 3 / 4, limit_s / 4)
        time.sleep(min(REARM_S, limit_s / 8))
