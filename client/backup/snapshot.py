"""The rows of a ledger as they were at one moment, and the objects that those rows name.

jobs, costs, ends of chains ──one transaction──▶ files
events ──up to those ends, page by page; they never change──▶ file
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import IO, Any, Self

from sqlalchemy import Table, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from client.backup.generations import spool
from client.backup.rowfiles import encode_row
from client.errors import ConfigurationError
from client.jobs import WITHDRAWN_CODES
from client.ledger.migrations.upgrading import upgrade
from client.ledger.schema import chain_heads, costs, events, jobs
from client.objectstore.objects import StoredObject
from client.sql.transactions import Database

__all__ = ("LEDGER_TABLES", "LedgerRows", "Snapshot", "named_objects")

LEDGER_TABLES: tuple[Table, ...] = (jobs, events, chain_heads, costs)
_BATCH = 500


@dataclass(slots=True)
class Snapshot:
    """One moment of a ledger.

    Attributes:
        at: When it was read.
        files: The tables' rows as JSON lines, by the table's name.
        objects: What its jobs have in the object store.
    """

    at: datetime
    files: Mapping[str, IO[bytes]]
    objects: list[StoredObject]

    def close(self) -> None:
        """Remove the files."""
        for file in self.files.values():
            file.close()


class LedgerRows:
    """The tables of a ledger, read and written as a whole.

    Args:
        url: SQLAlchemy URL.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url, "ledger")

    async def __aenter__(self) -> Self:
        """Connect, and bring the tables up to date."""
        await self._database.open(upgrade)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every connection."""
        await self._database.close()

    async def snapshot(self) -> Snapshot:
        """Read everything as it is at one moment; writers go on meanwhile."""
        taken = Snapshot(datetime.now(UTC), {table.name: spool() for table in LEDGER_TABLES}, [])
        try:
            ends = await self._database.read(lambda connection: _read(connection, taken))
            for tenant, last in sorted(ends.items()):
                await self._read_events(tenant, last, taken.files[events.name])
        except BaseException:
            taken.close()
            raise
        return taken

    async def _read_events(self, tenant: str, last: int, file: IO[bytes]) -> None:
        after = 0
        while after < last:
            page = select(events).where(events.c.tenant == tenant, events.c.number > after)
            page = page.where(events.c.number <= last).order_by(events.c.number).limit(_BATCH)
            rows = await self._database.fetch(page)
            if not rows:
                break  # somebody removed the end: the chain's verification tells
            for row in rows:
                file.write(encode_row(events, row._asdict()))
            after = rows[-1].number

    async def restore(self, tables: Mapping[Table, AsyncIterator[dict[str, Any]]]) -> None:
        """Enter rows into an empty ledger, all or none of them.

        Raises:
            ConfigurationError: The ledger has jobs or events.
        """

        async def work(connection: AsyncConnection) -> None:
            await _refuse_unless_empty(connection)
            await connection.execute(chain_heads.delete())  # the empty chain of a new ledger
            for table, rows in tables.items():
                await _insert(connection, table, rows)

        await self._database.write(work)

    async def refuse_unless_empty(self) -> None:
        """Make sure that nothing would be lost.

        Raises:
            ConfigurationError: The ledger has jobs or events.
        """
        await self._database.read(_refuse_unless_empty)


def named_objects(row: Mapping[str, Any]) -> list[StoredObject]:
    """Return the objects that a row of ``jobs`` has in the store."""
    if row["code"] in WITHDRAWN_CODES:
        return []
    return [
        StoredObject(row[f"{kind}_key"], row[f"{kind}_bytes"], row[f"{kind}_sha256"])
        for kind in ("object", "result")
        if row[f"{kind}_key"]
    ]


async def _read(connection: AsyncConnection, taken: Snapshot) -> dict[str, int]:
    if connection.dialect.name == "postgresql":
        await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
    ends: dict[str, int] = {}
    for row in await connection.execute(select(chain_heads)):
        ends[row.tenant] = row.number
        taken.files[chain_heads.name].write(encode_row(chain_heads, row._asdict()))
    found = await connection.stream(select(jobs).order_by(jobs.c.id))
    async for batch in found.partitions(_BATCH):
        for row in batch:
            taken.files[jobs.name].write(encode_row(jobs, row._asdict()))
            taken.objects += named_objects(row._asdict())
    await _read_costs(connection, taken.files[costs.name])
    return ends


async def _read_costs(connection: AsyncConnection, file: IO[bytes]) -> None:
    found = await connection.stream(select(costs).order_by(costs.c.job_id, costs.c.attempt))
    async for batch in found.partitions(_BATCH):
        for row in batch:
            file.write(encode_row(costs, row._asdict()))


async def _refuse_unless_empty(connection: AsyncConnection) -> None:
    for table in (jobs, events):
        number = await connection.scalar(select(func.count()).select_from(table))
        if number:
            raise ConfigurationError(
                f"Expected an empty ledger, got one with {number} {table.name}: restore into a new "
                "one, or move the old one away first."
            )


async def _insert(
    connection: AsyncConnection, table: Table, rows: AsyncIterator[dict[str, Any]]
) -> None:
    batch: list[dict[str, Any]] = []
    async for row in rows:
        batch.append(row)
        if len(batch) == _BATCH:
            await connection.execute(table.insert(), batch)
            batch = []
    if batch:
        await connection.execute(table.insert(), batch)
