"""Looks at watched jobs: whoever waits for the next look shares one query.

watch ─┐
watch ─┼──▶ look ──pause──▶ one query for all ──▶ each its job
watch ─┘            ▲
    queue ──ends────┘ a watched job has ended: no pause any more

The pause is a tenth of the time that the youngest watch has lasted: it is there for progress, and
for ends of which nothing was heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque

from client.errors import ClientError, NotFound
from client.jobqueue.base import JobQueue
from client.jobs import Job
from client.ledger.ledger import Ledger

__all__ = ("Lookout",)

_LOG = logging.getLogger(__name__)
_LEAST_S = 0.25
_PART = 0.1
_DEAF_S = 2.0
"""After the queue was away."""
_REMEMBERED = 1000
"""Ends of jobs that were told while nobody waited for a look at them."""


class Lookout:
    """Where watches ask for news; its cost hardly grows with their number.

    Args:
        ledger: Where jobs are.
        interval_s: Between two looks, at most.
    """

    def __init__(self, ledger: Ledger, interval_s: float) -> None:
        self._ledger = ledger
        self._interval_s = interval_s
        self._open: _Look | None = None
        self._ended: deque[str] = deque(maxlen=_REMEMBERED)

    async def listen(self, queue: JobQueue) -> None:
        """Look at once when the queue tells that a watched job has ended; until cancelled."""
        while True:
            try:
                async with contextlib.aclosing(queue.ends()) as ends:
                    async for job_id in ends:
                        self._hear(job_id)
            except ClientError as error:
                _LOG.warning("ends of jobs are not heard, looks go on: %s", error)
            await asyncio.sleep(_DEAF_S)

    def _hear(self, job_id: str) -> None:
        if self._open is not None and job_id in self._open.wanted:
            self._open.within(0)
        else:
            self._ended.append(job_id)

    async def next(self, job_id: str, watched_s: float = 0.0) -> Job:
        """Return a job as the next look finds it, at most ``interval_s`` from now.

        Args:
            job_id: The job.
            watched_s: How long it has been watched.

        Raises:
            NotFound: It is there no more.
            Transient: The ledger is away.
        """
        look = self._open
        if look is None:
            look = self._open = _Look()
            look.task = asyncio.create_task(self._found(look))
        if job_id in self._ended:
            self._ended.remove(job_id)
            look.within(0)
        look.within(min(self._interval_s, max(_LEAST_S, _PART * watched_s)))
        found = await self._shared(look, job_id)
        if job_id not in found:
            raise NotFound(f"No job {job_id}.")
        return found[job_id]

    async def _shared(self, look: _Look, job_id: str) -> dict[str, Job]:
        """Wait for a look; it ends with the last watch that waits for it."""
        look.wanted.add(job_id)
        look.waiting += 1
        try:
            return await asyncio.shield(look.task)
        finally:
            look.waiting -= 1
            if not look.waiting:
                self._close(look)
                look.task.cancel()

    async def _found(self, look: _Look) -> dict[str, Job]:
        await look.time
        self._close(look)
        return await self._ledger.known(look.wanted)

    def _close(self, look: _Look) -> None:
        """Let nobody join any more."""
        if self._open is look:
            self._open = None


class _Look:
    """One look: for which jobs, for how many watches, when, and the task that looks."""

    task: asyncio.Task[dict[str, Job]]

    def __init__(self) -> None:
        self.wanted: set[str] = set()
        self.waiting = 0
        self._loop = asyncio.get_running_loop()
        self.time = self._loop.create_future()
        self._alarm: asyncio.TimerHandle | None = None

    def within(self, pause_s: float) -> None:
        """Be no later than so long from now."""
        due = self._loop.time() + pause_s
        if self._alarm is None or due < self._alarm.when():
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = self._loop.call_at(due, self._ring)

    def _ring(self) -> None:
        if not self.time.done():
            self.time.set_result(None)
