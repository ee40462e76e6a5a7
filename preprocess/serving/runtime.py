"""The one OpenVINO runtime of a process, which is never unloaded.

OpenVINO's CPU plugin gives the thread that loads it a signal stack of its own, and takes the memory
away in whichever thread lets go of it last. If that is another one, the next signal to the first
thread ends the process (OpenVINO 2026.4).
"""

from __future__ import annotations

from functools import cache
from threading import Lock

import openvino as ov

__all__ = ("openvino_core",)

_LOCK = Lock()


def openvino_core() -> ov.Core:
    """Return the process's runtime; it holds its plugins to the end."""
    with _LOCK:
        return _core()


@cache
def _core() -> ov.Core:
    return ov.Core()
