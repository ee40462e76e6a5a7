"""Where a study is on its way and how long each stage took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from client.telemetry.traces import span
from client.worker.spending import Spending

__all__ = ("STAGES", "Outcome", "Progress", "SegmentedSeries")

STAGES = ("fetch", "read", "segment", "write", "store")
"""The stages of a study in order; fetch decrypts, store encrypts."""


_WEIGHTS = {"segment": 5.0}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: done, rejected, failed, lost, retried or dead; code says why, or ""."""

    name: str
    code: str = ""

    def __str__(self) -> str:
        """As a log tells it."""
        return f"{self.name} code={self.code}" if self.code else self.name


@dataclass(frozen=True, slots=True)
class SegmentedSeries:
    """What metrics tell of a segmented series.

    Attributes:
        model: Its model.
        version: Of the model's network.
        slices: How many it has.
        foreground: Part of its voxels that lie in any structure, 0 to 1.
    """

    model: str
    version: str
    slices: int
    foreground: float


class Progress:
    """The progress of one attempt at one study.

    Attributes:
        stage: The stage in work, "" before the first.
        timings_s: Seconds spent in each stage so far; stages that run twice add up.
        moved_bytes: Bytes that came out of each stage so far.
        series: Those that are segmented.
        spending: What the attempt has taken so far.
    """

    def __init__(self) -> None:
        self.stage = ""
        self.timings_s: dict[str, float] = {}
        self.moved_bytes: dict[str, int] = {}
        self.series: list[SegmentedSeries] = []
        self.spending = Spending()
        self._part = 0.0

    @contextmanager
    def stage_of(self, name: str) -> Iterator[None]:
        """Time one stage; its wall seconds are added when it ends well or ill."""
        self.stage, self._part = name, 0.0
        began = time.monotonic()
        try:
            with span(name):
                yield
        finally:
            spent = time.monotonic() - began
            self.timings_s[name] = round(self.timings_s.get(name, 0.0) + spent, 4)

    def moved(self, number: int) -> None:
        """Say that so many bytes came out of the stage in work."""
        self.moved_bytes[self.stage] = self.moved_bytes.get(self.stage, 0) + number

    @property
    def model(self) -> str:
        """Model of the first segmented series, "" before."""
        return self.series[0].model if self.series else ""

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
