"""Ties the life of a process to its parent's, so that no kill leaves an orphan."""

from __future__ import annotations

import ctypes
import signal
import sys

__all__ = ("die_with_parent",)

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask Linux to kill this process as soon as its parent dies; elsewhere do nothing.

    Call it first thing in a child (it survives ``exec``). See prctl(2), PR_SET_PDEATHSIG.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
