"""Functions that misbehave in a child process, for the isolation tests."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np

from client.errors import RefusalCode, Rejected

__all__ = ("allocate", "die_by", "double", "raise_with_patient_name", "reject")


def double(array: Any) -> Any:
    return array * 2


def reject() -> None:
    raise Rejected(RefusalCode.COLOUR, "expected grey, got colour")


def raise_with_patient_name() -> None:
    raise ValueError("could not parse Doe^Jane")


def die_by(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def allocate(size: int) -> int:
    return int(np.ones(size, dtype=np.uint8).sum())
