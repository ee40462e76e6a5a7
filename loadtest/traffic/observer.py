"""Looks at the queue while a load runs, and breaks what is to be broken in time.

local stack ──every second──▶ queue depth by priority;  fault's time ──▶ SIGKILL
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from client.errors import Transient
from client.jobqueue.embedded import embedded_queue_url
from client.jobqueue.streams import StreamsQueue
from client.jobs import Priority
from client.settings import Settings
from loadtest.traffic.faults import Fault, strike

__all__ = ("Depth", "Observation", "observe")

LOOK_S = 1.0


@dataclass(frozen=True)
class Depth:
    """Jobs waiting or in work at one moment, as the queue counts them.

    Attributes:
        at_s: Seconds since the load began.
        stat: STAT jobs.
        routine: The others.
    """

    at_s: float
    stat: int
    routine: int


@dataclass
class Observation:
    """What was seen, and done.

    Attributes:
        depths: In time; none of a moment when the queue did not answer.
        struck: Faults that were done, and when.
    """

    depths: list[Depth] = field(default_factory=list)
    struck: list[Fault] = field(default_factory=list)


async def observe(
    settings: Settings, faults: Sequence[Fault], now_s: Callable[[], float], seen: Observation
) -> None:
    """Look and strike until cancelled.

    Args:
        settings: Of a running local stack.
        faults: What to break.
        now_s: Seconds since the load began, below 0 before that.
        seen: Filled meanwhile.
    """
    left = sorted(faults, key=lambda fault: fault.at_s)
    url = embedded_queue_url(Path(settings.home) / "queue")
    async with StreamsQueue(url, "observer") as queue:
        while True:
            if left and now_s() >= left[0].at_s and strike(settings, left[0]):
                seen.struck.append(Fault(left.pop(0).part, round(now_s(), 1)))
            try:
                sizes = await queue.size()
            except Transient:
                sizes = {}
            if sizes and now_s() >= 0:
                seen.depths.append(
                    Depth(round(now_s(), 1), sizes[Priority.STAT], sizes[Priority.ROUTINE])
                )
            await asyncio.sleep(LOOK_S)
