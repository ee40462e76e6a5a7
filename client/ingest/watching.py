"""Looks at watched jobs: whoever waits for the next look shares one query.

watch ─┐
watch ─┼──▶ look ──pause──▶ one query for all ──▶ each its job
watch ─┘
"""

from __future__ import annotations

import asyncio

from client.errors import NotFound
from client.jobs import Job
from client.ledger.ledger import Ledger

__all__ = ("Lookout",)


class Lookout:
    """Where watches ask for news; its cost hardly grows with their number.

    Args:
        ledger: Where jobs are.
        interval_s: Between two looks.
    """

    def __init__(self, ledger: Ledger, interval_s: float) -> None:
        self._ledger = ledger
        self._interval_s = interval_s
        self._open: _Look | None = None

    async def next(self, job_id: str) -> Job:
        """Return a job as the next look finds it, at most ``interval_s`` from now.

        Raises:
            NotFound: It is there no more.
            Transient: The ledger is away.
        """
        look = self._open
        if look is None:
            look = self._open = _Look()
            look.task = asyncio.create_task(self._found(look))
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
        await asyncio.sleep(self._interval_s)
        self._close(look)
        return await self._ledger.known(look.wanted)

    def _close(self, look: _Look) -> None:
        """Let nobody join any more."""
        if self._open is look:
            self._open = None


class _Look:
    """One look: which jobs are wanted, how many watches wait, and the task that looks."""

    task: asyncio.Task[dict[str, Job]]

    def __init__(self) -> None:
        self.wanted: set[str] = set()
        self.waiting = 0
