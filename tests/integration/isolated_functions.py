"""Functions that misbehave in a child process, for the isolation tests."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from typing import Any

import numpy as np

from client.errors import RefusalCode, Rejected

__all__ = ("allocate", "babble", "die_by", "double", "raise_with_patient_name", "reject")


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


def die_by(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def allocate(size: int) -> int:
    return int(np.ones(size, dtype=np.uint8).sum())
