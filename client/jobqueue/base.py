"""What a queue promises; the ledger repairs what a queue loses.

Contract:
    - An entry that was put is taken by one worker; one that is neither acknowledged nor touched
      for a while can be taken over by another (at least once, never lost while the server lives).
    - STAT entries are taken before every routine entry that waits.
    - Acknowledging removes the entry for good; doing it twice does no harm.
    - A queue gives no fencing: who may write a result is the ledger's decision.
    - The end of a job is told to whoever listens at that moment, and is kept for nobody: a hint to
      look at the ledger now.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from client.jobs import Priority

__all__ = ("PRIORITY_ORDER", "JobQueue", "QueueEntry")

PRIORITY_ORDER = (Priority.STAT, Priority.ROUTINE)


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A job's place in the queue; ``receipt`` is the queue's own name for it."""

    job_id: str
    priority: Priority
    receipt: str


class JobQueue(Protocol):
    """A queue of job ids. Every method raises Transient when the queue is away."""

    async def put(self, job_id: str, priority: Priority) -> None:
        """Append a job; putting it twice makes two entries, which does no harm."""

    async def take(
        self, wait_s: float, priorities: Sequence[Priority] = PRIORITY_ORDER
    ) -> QueueEntry | None:
        """Return the next entry, None when none came in ``wait_s`` seconds.

        Args:
            wait_s: How long to wait; 0 only looks.
            priorities: Which to look at, the most urgent first.
        """

    async def ack(self, entry: QueueEntry) -> None:
        """Remove an entry that is done with."""

    async def touch(self, entry: QueueEntry) -> None:
        """Say that the entry is still being worked on."""

    async def reclaim(self, idle_s: float) -> QueueEntry | None:
        """Take over one entry that nobody touched for ``idle_s``, STAT first; else None."""

    async def job_ids(self) -> frozenset[str]:
        """Return the ids of all entries, waiting or taken."""

    async def size(self) -> Mapping[Priority, int]:
        """Return the number of entries, waiting or taken, of each priority."""

    async def tell_end(self, job_id: str) -> None:
        """Say that a job has ended, to whoever listens."""

    def ends(self) -> AsyncGenerator[str]:
        """Yield the ids of jobs whose end is told from now on."""
