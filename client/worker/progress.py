"""Where a study is on its way and how long each stage took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ("STAGES", "Progress")

STAGES = ("fetch", "read", "segment", "write", "store")
"""The stages of a study in order; fetch decrypts, store encrypts."""


_WEIGHTS = {"segment": 5.0}


class Progress:
    """The progress of one attempt at one study.

    Attributes:
        stage: The stage in work, "" before the first.
        timings_s: Seconds spent in each stage so far; stages that run twice add up.
    """

    def __init__(self) -> None:
        self.stage = ""
        self.timings_s: dict[str, float] = {}
        self._part = 0.0

    @contextmanager
    def stage_of(self, name: str) -> Iterator[None]:
        """Time one stage; its wall seconds are added when it ends well or ill."""
        self.stage, self._part = name, 0.0
        began = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - began
            self.timings_s[name] = round(self.timings_s.get(name, 0.0) + spent, 4)

    def advance(self, part: float) -> None:
        """Say which part of the stage in work is done, 0 to 1."""
        self._part = part

    @property
    def fraction(self) -> float:
        """Part of the whole way that is done, 0 to 1."""
        if not self.stage:
            return 0.0
        weights = [_WEIGHTS.get(name, 1.0) for name in STAGES]
        index = STAGES.index(self.stage)
        return (sum(weights[:index]) + weights[index] * self._part) / sum(weights)
