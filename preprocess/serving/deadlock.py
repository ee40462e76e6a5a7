"""Ends a model's process whose interpreter is stuck, which nothing else would notice."""

from __future__ import annotations

import ctypes
import signal
import threading
import time

__all__ = ("end_when_stuck",)

REARM_S = 1.0
LIMIT_S = 3.0


def end_when_stuck() -> None:
    """Ends this process by SIGALRM once no Python thread could run for 17 seconds.

    Where the server is killed while an answer is on its way, Triton 24.10's stub waits for it for
    ever and holds the interpreter's lock, for which the thread that sees the server's death waits
    in turn. The kernel's timer needs no lock; a thread that does puts it off again and again.

    The timer also runs out while a container is paused. So the first signal only starts another
    timer, in which that thread can put off both.
    """
    threading.Thread(target=_put_off, daemon=True).start()


def _put_off() -> None:
    libc = ctypes.CDLL(None)
    # sysv_signal(3): the handler serves once, the default action, which ends the process, follows.
    # The handler is alarm(2) itself: it is called with the signal's number, which is 14.
    alarm = ctypes.cast(libc.alarm, ctypes.c_void_p)
    while True:
        libc.sysv_signal(int(signal.SIGALRM), alarm)
        signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
        time.sleep(REARM_S)
