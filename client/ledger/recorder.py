"""Writes events that concern no job's state; what waits at one time shares one transaction.

record ──▶ waiting (bounded) ──▶ one transaction ──▶ durable ──▶ every caller
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from client.audittrail import AuditEntry, AuditEvent
from client.errors import Busy, RefusalCode, Rejected
from client.jobs import Actor
from client.ledger.audit import Draft
from client.ledger.jobtable import JobTable

__all__ = ("Recorder",)

_MAX_WAITING = 2000
_MAX_BATCH = 256
_RETRY_AFTER_S = 1.0


@dataclass(frozen=True, slots=True)
class _Waiting:
    draft: Draft
    written: asyncio.Future[AuditEvent]


class Recorder:
    """Group commit for the audit trail.

    Args:
        table: Where events go.
        clock: Stamps them.
    """

    def __init__(self, table: JobTable, clock: Callable[[], datetime]) -> None:
        self._table = table
        self._clock = clock
        self._waiting: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None

    async def record(self, tenant: str, actor: Actor, entry: AuditEntry) -> AuditEvent:
        """Return the event once it is durable.

        A caller that is cancelled meanwhile gives up the answer; the event is written.

        Raises:
            Busy: Too many events are waiting.
            Rejected: A text holds a NUL, which no database keeps.
            Transient: The database is away.
        """
        texts = (actor.name, actor.role, entry.action, entry.code, entry.detail)
        if any("\0" in text for text in texts):
            raise Rejected(
                RefusalCode.INVALID_REQUEST,
                "Expected text without a NUL character: send it without.",
            )
        if len(self._waiting) >= _MAX_WAITING:
            raise Busy("The audit trail has more to write than it can", _RETRY_AFTER_S)
        draft = Draft(tenant, self._clock(), actor, entry)
        waiting = _Waiting(draft, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        return await waiting.written

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:_MAX_BATCH], self._waiting[_MAX_BATCH:]
            # The table answers ordered by tenant; so are the callers, each tenant's as they came.
            batch.sort(key=lambda waiting: waiting.draft.tenant)
            try:
                events = await self._table.record([waiting.draft for waiting in batch])
            except Exception as error:
                for waiting in batch:
                    if not waiting.written.done():
                        waiting.written.set_exception(error)
                continue
            for waiting, event in zip(batch, events, strict=True):
                if not waiting.written.done():
                    waiting.written.set_result(event)
