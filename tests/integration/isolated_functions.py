"""Functions that misbehave in a child process, for the isolation tests."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from client.errors import RefusalCode, Rejected
from client.worker import isolation

__all__ = (
    "allocate",
    "babble",
    "boast",
    "burn",
    "die_by",
    "double",
    "double_in_place",
    "fill",
    "process_id",
    "raise_with_patient_name",
    "reject",
    "shrink",
    "take_over",
)


def double(array: Any) -> Any:
    return array * 2


def reject() -> None:
    raise Rejected(RefusalCode.COLOUR, "expected grey, got colour")


def raise_with_patient_name() -> None:
    raise ValueError("could not parse Doe^Jane")


def babble(text: str) -> Any:
    """Tell a text by every way a decoder has, and return what cannot be sent back."""
    warnings.warn(text, stacklevel=1)
    logging.getLogger("pydicom").error(text)
    sys.stderr.write(text)
    os.write(1, text.encode())
    os.write(2, text.encode())

    def unpicklable() -> None:
        raise ValueError(text)

    unpicklable.__qualname__ = text
    return unpicklable


def burn(seconds: float) -> None:
    """Use so many seconds of a core, half of them in a child."""
    child = os.fork()
    end = time.process_time() + seconds / 2
    while time.process_time() < end:
        pass
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


def boast(seconds: float) -> None:
    """Have this child say that it took so many seconds of a core."""
    isolation._CpuTime.since_last_s = lambda _: seconds  # type: ignore[assignment,method-assign]


def die_by(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def allocate(size: int) -> int:
    return int(np.ones(size, dtype=np.uint8).sum())


class Evil:
    """Unpickled by one who is not careful, it touches a file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self._path,)


def take_over(path: str) -> Any:
    """Answer with what runs code where it is unpickled."""
    return Evil(path)


def double_in_place(array: Any, room: Any) -> Any:
    """Return an array that lies in the block."""
    answer = room[: array.nbytes].view(array.dtype).reshape(array.shape)
    np.multiply(array, 2, out=answer)
    return answer


def shrink(_room: Any) -> str:
    """Try to cut every shared block that this process has."""
    for fd in range(3, 64):
        try:
            if "memfd" in str(Path(f"/proc/self/fd/{fd}").readlink()):
                os.ftruncate(fd, 0)
        except OSError as error:
            if isinstance(error, PermissionError):
                return "not permitted"
    return "nothing to cut"


def process_id() -> int:
    return os.getpid()


def fill(room: Any, value: int) -> None:
    room[:] = value
    raise ValueError("after it has written")
