"""How long a STAT study takes, with the system idle and with a full routine queue.

STAT ▸ STAT ▸ …                          one after another, nothing else
STAT ▸ STAT ▸ …  ‖  routine ▸ routine …  as many routine studies unfinished as stated, always
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from client.jobs import Priority
from loadtest.journey import WholeWay
from loadtest.report import Urgent

__all__ = ("UrgentStudies", "routine_load")


@dataclass
class _Backlog:
    """Routine studies that were handed in and are not finished."""

    unfinished: int = 0
    full: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, eq=False)
class UrgentStudies:
    """STAT studies on a running stack.

    Attributes:
        urgent: Sends the STAT study.
        routine: Sends the studies that are in its way.
        slices: Slices of the STAT study.
        precision: As in ``Load``.
        count: STAT studies of each kind in one run.
        backlog: Routine studies that are unfinished at a time; more than a worker holds.
    """

    urgent: WholeWay
    routine: WholeWay
    slices: int
    precision: str
    count: int
    backlog: int = 12

    def processes(self) -> Mapping[str, int]:
        """Those of the stack."""
        return self.urgent.processes()

    async def run(self) -> Urgent:
        """First those on the idle system, then those in a crowd; one of each kind is not counted.

        Raises:
            Transient: A study did not end well.
        """
        idle = [await self.urgent.time_one(Priority.STAT) for _ in range(self.count + 1)]
        busy, waiting = [], []
        async with routine_load(self.routine, self.backlog) as crowd:
            for _ in range(self.count + 1):
                waiting.append(crowd.unfinished)
                busy.append(await self.urgent.time_one(Priority.STAT))
        return Urgent(
            slices=self.slices,
            precision=self.precision,
            idle_s=_rounded(idle[1:]),
            busy_s=_rounded(busy[1:]),
            routine_waiting=min(waiting),
        )


@asynccontextmanager
async def routine_load(way: WholeWay, backlog: int) -> AsyncIterator[_Backlog]:
    """Keeps so many routine studies unfinished; at its end waits for those in work."""
    crowd, stop = _Backlog(), asyncio.Event()

    async def keep_sending() -> None:
        while not stop.is_set():
            job = await way.submit()
            crowd.unfinished += 1
            if crowd.unfinished >= backlog:
                crowd.full.set()
            await way.finished(job)
            crowd.unfinished -= 1

    async with asyncio.TaskGroup() as senders:
        for _ in range(backlog):
            senders.create_task(keep_sending())
        await crowd.full.wait()
        try:
            yield crowd
        finally:
            stop.set()


def _rounded(seconds: list[float]) -> tuple[float, ...]:
    return tuple(round(each, 4) for each in seconds)
