"""Ties the life of a process to its parent's, so that no kill leaves an orphan."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

__all__ = ("die_with_parent", "tied_command")

_PR_SET_PDEATHSIG = 1
_TIE = (
    "import ctypes, os, sys; "
    f"ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {int(signal.SIGKILL)}); "
    # The parent may have died before the line above.
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)


def die_with_parent() -> None:
    """Ask Linux to kill this process as soon as its parent dies; elsewhere do nothing.

    Call it first thing in a child (it survives ``exec``). See prctl(2), PR_SET_PDEATHSIG.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def tied_command(argv: Sequence[str]) -> tuple[str, ...]:
    """Return a command that becomes ``argv`` after it has tied itself to this process, its parent.

    For parents that use gRPC: a ``preexec_fn`` would make them fork, and a fork with gRPC's
    threads running can break its connections.

    Args:
        argv: Absolute path of the program, and its arguments.
    """
    if not sys.platform.startswith("linux"):
        return tuple(argv)
    return (sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid()), *argv)
