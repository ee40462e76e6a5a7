"""Stops whoever is not measured: idle servers probe, poll and beat, on the bill of the measured.

Stillness ──JSON lines──▶ python -m loadtest.stillness ──SIGSTOP, SIGCONT──▶ families of processes

A family is a child of the benchmark with all its descendants: a stack, a server, a peer. They are
stopped by a process of its own, which lets all of them go on when the benchmark ends, however it
ends: a stopped process would otherwise stay for ever.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Collection, Iterator
from typing import IO

import psutil

from loadtest.follower import Follower

__all__ = ("Stillness", "serve")

SETTLE_S = 0.5
"""Families that go on find every timer expired; so long they get to put that in order."""


class Stillness(Follower):
    """Decides which families run; a context manager, at whose end all of them do.

    Args:
        spared: Processes whose families are never stopped.
        settle_s: Seconds to wait after some were let go on.
    """

    def __init__(self, spared: Collection[int] = (), settle_s: float = SETTLE_S) -> None:
        super().__init__("loadtest.stillness")
        self._spared = frozenset(spared)
        self._settle_s = settle_s
        self._still: frozenset[int] = frozenset()

    def only(self, wanted: Collection[int]) -> None:
        """Lets the families of some processes run, and no other.

        Args:
            wanted: Process ids; this process itself always runs.

        Raises:
            Transient: The process that does it died.
        """
        still: set[int] = set()
        for family in _families():
            if family.isdisjoint({*wanted, *self._spared, self.pid}):
                still |= family
        wake = self._still - still
        self.say({"wake": [*wake], "stop": [*still - self._still]})
        self.hear()
        self._still = frozenset(still)
        if wake:
            time.sleep(self._settle_s)


def _families() -> Iterator[frozenset[int]]:
    """Process ids of each child of this process, with all its descendants."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            yield frozenset({child.pid, *(one.pid for one in child.children(recursive=True))})


def serve(orders: IO[str], answers: IO[str]) -> None:
    """Follows orders, one JSON object a line, until they end; then wakes whoever is stopped."""
    still: set[int] = set()
    try:
        for line in orders:
            order = json.loads(line)
            _send(order["stop"], signal.SIGSTOP)
            _send(order["wake"], signal.SIGCONT)
            still = (still | {*order["stop"]}) - {*order["wake"]}
            answers.write("done\n")
            answers.flush()
    finally:
        _send(still, signal.SIGCONT)


def _send(pids: Collection[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
