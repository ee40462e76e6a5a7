"""Reads the job tables and changes them, each change together with the event that tells of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from client.audittrail import AuditEntry, AuditEvent
from client.jobs import Actor, Job, JobState
from client.ledger.audit import SYSTEM_TENANT, AuditKey, Draft, append, begin_chain
from client.ledger.migrations.upgrading import upgrade
from client.ledger.records import AttemptCost, ServedModel
from client.ledger.schema import costs, jobs, to_job
from client.ledger.service import tell_served
from client.ledger.transitions import may_become
from client.sql.transactions import Database

__all__ = ("Change", "JobTable")


@dataclass(frozen=True, slots=True)
class Change:
    """One change of jobs, and what to record for each of them.

    Attributes:
        values: New columns; a new state is taken only from the states that may precede it.
            ``updated_at`` becomes the present unless it is among them.
        action: Name of the event.
        actor: Who does it; None means the worker that has, or last had, the job.
        detail: For people; "" takes the row's reason.
        costs: What the attempt took that this change ends; kept only if a row is changed.
    """

    values: Mapping[str, Any]
    action: str
    actor: Actor | None = None
    detail: str = ""
    costs: Sequence[AttemptCost] = ()


class JobTable:
    """The ledger's database.

    Args:
        url: SQLAlchemy URL.
        key: Makes the audit trail.
        clock: Stamps every change.
    """

    def __init__(self, url: str, key: AuditKey, clock: Callable[[], datetime]) -> None:
        self._database = Database(url, "ledger")
        self._key = key
        self._clock = clock
        self._begun: set[str] = set()

    async def open(self) -> None:
        """Connect, bring the tables up to date, and begin the system's own chain."""
        await self._database.open(upgrade)
        try:
            await self._begin(SYSTEM_TENANT)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close every connection."""
        await self._database.close()

    async def fetch(self, query: Select[Any]) -> list[Row[Any]]:
        """Return what a query finds."""
        return await self._database.fetch(query)

    async def insert(self, values: Mapping[str, Any], actor: Actor) -> Job:
        """Enter a job.

        Raises:
            IntegrityError: It breaks a uniqueness rule.
        """
        await self._begin(values["tenant"])

        async def work(connection: AsyncConnection) -> Row[Any]:
            inserted = await connection.execute(jobs.insert().values(values).returning(jobs))
            row: Row[Any] = inserted.one()
            await self._record(connection, [row], Change({}, "job.received", actor))
            return row

        return to_job(await self._database.write(work))

    async def change(self, where: ColumnElement[bool], change: Change) -> tuple[Job, ...]:
        """Change the rows that meet a condition, in one transaction with their events.

        Returns:
            The rows as they are then; none when none met the condition.
        """

        async def work(connection: AsyncConnection) -> Sequence[Row[Any]]:
            return await self._changed(connection, where, change)

        return tuple(map(to_job, await self._database.write(work)))

    async def touch(self, where: ColumnElement[bool], values: Mapping[str, Any]) -> bool:
        """Change what is no step of a job's life: no event, no new ``updated_at``.

        Returns:
            Whether a row met the condition.
        """
        statement = update(jobs).where(where).values(dict(values)).returning(jobs.c.id)

        async def work(connection: AsyncConnection) -> bool:
            return bool((await connection.execute(statement)).all())

        return await self._database.write(work)

    async def tell_served(
        self, worker: str, models: Collection[ServedModel], now: datetime, until: datetime
    ) -> None:
        """Note what a worker serves; see ``client.ledger.service``."""

        async def work(connection: AsyncConnection) -> None:
            await tell_served(connection, worker, models, now, until)

        await self._database.write(work)

    async def change_together(
        self,
        steps: Sequence[tuple[ColumnElement[bool], Change]],
        last: tuple[str, Actor, AuditEntry],
    ) -> tuple[tuple[Job, ...], AuditEvent]:
        """Do several changes and record one more event in a single transaction.

        Args:
            steps: Rows and their changes, one after the other.
            last: Tenant, actor and entry of the event that sums them up.

        Returns:
            The changed rows, and that event.
        """
        tenant, actor, entry = last
        await self._begin(tenant)

        async def work(connection: AsyncConnection) -> tuple[list[Row[Any]], AuditEvent]:
            rows: list[Row[Any]] = []
            for where, change in steps:
                rows += await self._changed(connection, where, change)
            draft = Draft(tenant, self._clock(), actor, entry)
            return rows, (await append(connection, self._key, [draft]))[0]

        rows, event = await self._database.write(work)
        return tuple(map(to_job, rows)), event

    async def record(self, drafts: Sequence[Draft]) -> list[AuditEvent]:
        """Record events in one transaction; they come back ordered by tenant, then as given."""
        for tenant in sorted({draft.tenant for draft in drafts}):
            await self._begin(tenant)

        async def work(connection: AsyncConnection) -> list[AuditEvent]:
            return await append(connection, self._key, drafts)

        return await self._database.write(work)

    async def _changed(
        self, connection: AsyncConnection, where: ColumnElement[bool], change: Change
    ) -> Sequence[Row[Any]]:
        values = {"updated_at": self._clock(), **change.values}
        if "state" in values:
            where = and_(where, may_become(JobState(values["state"])))
        # Locked in one order: two changes of several rows must not wait for each other.
        chosen = select(jobs.c.id).where(where).order_by(jobs.c.id).with_for_update()
        statement = update(jobs).where(jobs.c.id.in_(chosen)).values(values).returning(jobs)
        rows: Sequence[Row[Any]] = (await connection.execute(statement)).all()
        await self._record(connection, rows, change)
        spent = [_cost_row(row, cost, self._clock()) for row in rows for cost in change.costs]
        if spent:
            await connection.execute(costs.insert(), spent)
        return rows

    async def _record(
        self, connection: AsyncConnection, rows: Sequence[Row[Any]], change: Change
    ) -> None:
        drafts = [
            Draft(
                tenant=row.tenant,
                at=self._clock() if "updated_at" in change.values else row.updated_at,
                actor=change.actor or Actor(f"worker:{row.owner}"),
                entry=AuditEntry(
                    change.action,
                    job_id=row.id,
                    code=row.code,
                    detail=change.detail or row.reason,
                ),
                state=row.state,
                attempt=row.attempt,
            )
            for row in rows
        ]
        await append(connection, self._key, drafts)

    async def _begin(self, tenant: str) -> None:
        """Make a tenant's chain in a transaction of its own, so that no two locks ever cross."""
        if tenant in self._begun:
            return

        async def work(connection: AsyncConnection) -> None:
            await begin_chain(connection, self._key, tenant, self._clock())

        with contextlib.suppress(IntegrityError):  # another process was faster
            await self._database.write(work)
        self._begun.add(tenant)


def _cost_row(row: Row[Any], cost: AttemptCost, now: datetime) -> dict[str, Any]:
    attempt = {"job_id": row.id, "attempt": row.attempt, "state": row.state, "at": now}
    return attempt | asdict(cost)
