"""How long a server was kept busy, and by whose slices.

    slices with the server:  A A A       one second, shared by the slices that are there:
                                 B B     each study gets what its slices got

Slices of several studies share batches, so that none has seconds of its own. What is shared out is
the time in which the server had work: all studies together get it once, however many they are.
Triton's own compute time is no substitute: of a model that answers later (the cpu profile's) it
counts only what starting a request took.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ("EngineUse", "Occupancy")


@dataclass(slots=True)
class EngineUse:
    """What somebody took of a server so far.

    Attributes:
        slices: That were answered.
        seconds: Of the time in which it had work, also for what failed.
    """

    slices: int = 0
    seconds: float = 0.0


class Occupancy:
    """Shares the time in which a server has slices equally among them.

    Args:
        clock: Seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen_s = clock()
        self._slices = 0
        # What one slice would have got that had been there from the beginning.
        self._each_s = 0.0

    @contextmanager
    def of(self, slices: int, use: EngineUse) -> Iterator[None]:
        """Count slices as being with the server; their share is added to ``use`` at the end."""
        self._advance()
        began_s = self._each_s
        self._slices += slices
        try:
            yield
        finally:
            self._advance()
            self._slices -= slices
            use.seconds += slices * (self._each_s - began_s)

    def _advance(self) -> None:
        now_s = self._clock()
        if self._slices:
            self._each_s += (now_s - self._seen_s) / self._slices
        self._seen_s = now_s
