"""The queue in this process's memory: the fake that passes the real one's tests."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence

from client.jobqueue.base import PRIORITY_ORDER, QueueEntry
from client.jobs import Priority

__all__ = ("MemoryQueue",)


class MemoryQueue:
    """See ``JobQueue`` for the promises."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._waiting: dict[Priority, list[QueueEntry]] = {p: [] for p in PRIORITY_ORDER}
        self._taken: dict[QueueEntry, float] = {}
        self._changed = asyncio.Condition()
        self._listeners: set[asyncio.Queue[str]] = set()

    async def put(self, job_id: str, priority: Priority) -> None:
        """Append a job."""
        async with self._changed:
            self._waiting[priority].append(QueueEntry(job_id, priority, str(next(self._numbers))))
            self._changed.notify_all()

    async def take(
        self, wait_s: float, priorities: Sequence[Priority] = PRIORITY_ORDER
    ) -> QueueEntry | None:
        """Return the next entry, None when none came in ``wait_s`` seconds."""
        try:
            async with asyncio.timeout(wait_s or None), self._changed:
                while (entry := self._next(priorities)) is None and wait_s:
                    await self._changed.wait()
                return entry
        except TimeoutError:
            return None

    def _next(self, priorities: Sequence[Priority]) -> QueueEntry | None:
        for priority in priorities:
            if self._waiting[priority]:
                entry = self._waiting[priority].pop(0)
                self._taken[entry] = time.monotonic()
                return entry
        return None

    async def ack(self, entry: QueueEntry) -> None:
        """Remove an entry that is done with."""
        self._taken.pop(entry, None)

    async def touch(self, entry: QueueEntry) -> None:
        """Say that the entry is still being worked on."""
        if entry in self._taken:
            self._taken[entry] = time.monotonic()

    async def reclaim(self, idle_s: float) -> QueueEntry | None:
        """Take over one entry that nobody touched for ``idle_s``, STAT first."""
        now = time.monotonic()
        idle = [entry for entry, touched in self._taken.items() if now - touched >= idle_s]
        if not idle:
            return None
        entry = min(idle, key=lambda e: (PRIORITY_ORDER.index(e.priority), int(e.receipt)))
        self._taken[entry] = now
        return entry

    async def job_ids(self) -> frozenset[str]:
        """Return the ids of all entries, waiting or taken."""
        return frozenset(entry.job_id for entry in self._entries())

    async def size(self) -> Mapping[Priority, int]:
        """Return the number of entries, waiting or taken, of each priority."""
        counted = Counter(entry.priority for entry in self._entries())
        return {priority: counted[priority] for priority in PRIORITY_ORDER}

    async def tell_end(self, job_id: str) -> None:
        """Say that a job has ended, to whoever listens."""
        for listener in self._listeners:
            listener.put_nowait(job_id)

    async def ends(self) -> AsyncGenerator[str]:
        """Yield the ids of jobs whose end is told from now on."""
        heard: asyncio.Queue[str] = asyncio.Queue()
        self._listeners.add(heard)
        try:
            while True:
                yield await heard.get()
        finally:
            self._listeners.discard(heard)

    def _entries(self) -> list[QueueEntry]:
        return [*itertools.chain.from_iterable(self._waiting.values()), *self._taken]
