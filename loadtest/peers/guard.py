"""Runs a command and leaves nothing of it behind, whoever of the two ends first.

    python guard.py PARENT COMMAND…

A server's own children do not die with it when it is killed. This process adopts them (prctl(2),
PR_SET_CHILD_SUBREAPER), so it can end them all, and their CPU time counts as its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

import psutil

__all__ = ("main",)

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
STOP_TIMEOUT_S = 10.0


class _Asked(BaseException):
    """Asked to end, by the parent or by its death."""


def main(arguments: Sequence[str]) -> int:
    """Runs the command until it ends, or until this process gets SIGTERM.

    Args:
        arguments: The parent's process id, then the command.

    Returns:
        The command's exit status.
    """
    signal.signal(signal.SIGTERM, _ask)
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
    # The parent may have died before the line above.
    if os.getppid() != int(arguments[0]):
        return 1
    process = subprocess.Popen(arguments[1:])
    try:
        return _wait_for(process.pid)
    except _Asked:
        return -int(signal.SIGTERM)
    finally:
        _end_all()


def _ask(_: int, __: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Asked


def _wait_for(pid: int) -> int:
    """Waits for a child, and on the way for adopted ones, so that none stays a zombie."""
    while True:
        ended, status = os.wait()
        if ended == pid:
            return os.waitstatus_to_exitcode(status)


def _end_all() -> None:
    """SIGTERM to the children, SIGKILL to whatever descendant outlives it."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            child.terminate()
    family = psutil.Process().children(recursive=True)
    psutil.wait_procs(family, timeout=STOP_TIMEOUT_S)
    # What loses its parent becomes a child of this process, so this comes to an end.
    while left := psutil.Process().children(recursive=True):
        for one in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(left, timeout=1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
