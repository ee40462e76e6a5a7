"""Reads the job tables and changes them, each change together with the event that tells of it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from client.jobs import Job
from client.storage.database import create_tables, open_database, reading, translated
from client.storage.schema import job_events, jobs, to_job

__all__ = ("JobTable",)


class JobTable:
    """Connections to the ledger's database.

    Args:
        url: SQLAlchemy URL.
        clock: Stamps every change.
    """

    def __init__(self, url: str, clock: Callable[[], datetime]) -> None:
        self._engine = open_database(url)
        self._reader = reading(self._engine)
        self._clock = clock

    async def open(self) -> None:
        """Connect, and create the tables that are missing."""
        try:
            with translated():
                await create_tables(self._engine)
        except BaseException:
            await self._engine.dispose()
            raise

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()

    async def fetch(self, query: Select[Any]) -> list[Row[Any]]:
        """Return what a query finds."""
        with translated():
            async with self._reader.connect() as connection:
                return list((await connection.execute(query)).all())

    async def insert(self, values: Mapping[str, Any], event: str) -> Job:
        """Enter a job.

        Raises:
            IntegrityError: It breaks a uniqueness rule.
        """
        async with self._writing() as connection:
            inserted = await connection.execute(jobs.insert().values(values).returning(jobs))
            row = inserted.one()
            await _record(connection, row, event, "")
        return to_job(row)

    async def change(
        self, where: ColumnElement[bool], values: Mapping[str, Any], event: str, detail: str = ""
    ) -> tuple[Job, ...]:
        """Change the rows that meet a condition, in one transaction with their events.

        Args:
            where: Which rows.
            values: Their new columns.
            event: What to record for each; "" records nothing.
            detail: For people; "" takes the row's reason.

        Returns:
            The rows as they are then; none when none met the condition.
        """
        stamped = {**values, "updated_at": self._clock()}
        statement = update(jobs).where(where).values(stamped).returning(jobs)
        async with self._writing() as connection:
            rows = (await connection.execute(statement)).all()
            for row in rows:
                if event:
                    await _record(connection, row, event, detail)
        return tuple(map(to_job, rows))

    @contextlib.asynccontextmanager
    async def _writing(self) -> AsyncIterator[AsyncConnection]:
        with translated():
            async with self._engine.begin() as connection:
                yield connection


async def _record(connection: AsyncConnection, row: Row[Any], event: str, detail: str) -> None:
    entry = {
        "job_id": row.id,
        "at": row.updated_at,
        "event": event,
        "state": row.state,
        "attempt": row.attempt,
        "code": row.code,
        "detail": detail or row.reason,
    }
    await connection.execute(job_events.insert().values(entry))
