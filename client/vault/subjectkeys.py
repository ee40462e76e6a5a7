"""The table of wrapped subject keys, in a database apart from the ledger.

One living key for each tenant and subject; an erased one keeps its row, without the key.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    and_,
    func,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from client.errors import ConfigurationError
from client.sql.moments import UtcDateTime
from client.sql.transactions import Database

__all__ = ("VAULT_SCHEMA", "SubjectKey", "SubjectKeyTable", "prepare_vault", "subject_keys")

VAULT_SCHEMA = 1

_metadata = MetaData()

subject_keys = Table(
    "subject_keys",
    _metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant", String(63), nullable=False),
    Column("subject", String(64), nullable=False),
    Column("wrapped_key", LargeBinary, nullable=True),
    Column("kek_id", String(512), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("erased_at", UtcDateTime, nullable=True),
    Index("subject_keys_by_kek", "kek_id", "id"),
)
_LIVING = subject_keys.c.erased_at.is_(None)
Index(
    "one_living_key_for_each_subject",
    subject_keys.c.tenant,
    subject_keys.c.subject,
    unique=True,
    sqlite_where=_LIVING,
    postgresql_where=_LIVING,
)
_version = Table("vault_schema", _metadata, Column("version", Integer, nullable=False))


@dataclass(frozen=True, slots=True)
class SubjectKey:
    """One row; ``wrapped`` is None once the key is destroyed."""

    id: str
    tenant: str
    subject: str
    wrapped: bytes | None
    kek_id: str


class SubjectKeyTable:
    """Connections to the vault's database.

    Args:
        url: SQLAlchemy URL, SQLite (aiosqlite) or PostgreSQL (psycopg).
    """

    def __init__(self, url: str) -> None:
        # Without a write-ahead log, in which an erased key would live on for a while.
        self._database = Database(url, "vault", write_ahead=False)

    async def open(self) -> None:
        """Connect, and create the tables that are missing.

        Raises:
            ConfigurationError: They were made by another version of this software.
        """
        await self._database.open(prepare_vault)

    async def close(self) -> None:
        """Close every connection."""
        await self._database.close()

    async def ping(self) -> None:
        """Ask the database for a sign of life."""
        await self._database.fetch(select(text("1")))

    async def living(self, tenant: str, subject: str) -> str | None:
        """Return the id of a subject's key, None when it has none."""
        where = and_(subject_keys.c.tenant == tenant, subject_keys.c.subject == subject, _LIVING)
        rows = await self._database.fetch(select(subject_keys.c.id).where(where))
        return rows[0].id if rows else None

    async def insert(self, key: SubjectKey, at: datetime) -> bool:
        """Enter a new key; return False when the subject has a living one already."""
        values = {
            "id": key.id,
            "tenant": key.tenant,
            "subject": key.subject,
            "wrapped_key": key.wrapped,
            "kek_id": key.kek_id,
            "created_at": at,
        }

        async def enter(connection: AsyncConnection) -> None:
            await connection.execute(subject_keys.insert().values(values))

        try:
            await self._database.write(enter)
        except IntegrityError:
            return False
        return True

    async def find(self, ids: Collection[str]) -> dict[str, SubjectKey]:
        """Return the rows of these ids; ids that do not exist are left out."""
        rows = await self._database.fetch(select(subject_keys).where(subject_keys.c.id.in_(ids)))
        return {row.id: _to_key(row) for row in rows}

    async def erase(self, tenant: str, subject: str, at: datetime) -> tuple[str, ...]:
        """Remove a subject's wrapped keys from the database; return the ids they had."""
        where = and_(subject_keys.c.tenant == tenant, subject_keys.c.subject == subject, _LIVING)
        change = update(subject_keys).where(where).values(wrapped_key=None, erased_at=at)

        async def remove(connection: AsyncConnection) -> tuple[str, ...]:
            erased = await connection.execute(change.returning(subject_keys.c.id))
            return tuple(erased.scalars().all())

        return await self._database.write(remove)

    async def wrapped_otherwise(self, kek_id: str, limit: int) -> tuple[SubjectKey, ...]:
        """Return living keys that another key-encrypting key than this one wraps."""
        query = select(subject_keys).where(and_(subject_keys.c.kek_id != kek_id, _LIVING))
        rows = await self._database.fetch(query.order_by(subject_keys.c.id).limit(limit))
        return tuple(map(_to_key, rows))

    async def replace(self, old: SubjectKey, kek_id: str, wrapped: bytes) -> bool:
        """Exchange what a key is wrapped in; return False when it changed in the meantime."""
        where = and_(subject_keys.c.id == old.id, subject_keys.c.kek_id == old.kek_id, _LIVING)
        change = update(subject_keys).where(where).values(kek_id=kek_id, wrapped_key=wrapped)

        async def exchange(connection: AsyncConnection) -> bool:
            return bool((await connection.execute(change)).rowcount)

        return await self._database.write(exchange)

    async def counts(self) -> dict[str, int]:
        """Return how many living keys each key-encrypting key wraps."""
        query = select(subject_keys.c.kek_id, func.count().label("number")).where(_LIVING)
        rows = await self._database.fetch(query.group_by(subject_keys.c.kek_id))
        return {row.kek_id: row.number for row in rows}


def prepare_vault(connection: Connection) -> None:
    """Create the tables that are missing.

    Raises:
        ConfigurationError: They were made by another version of this software.
    """
    _metadata.create_all(connection)
    found = connection.execute(select(_version.c.version)).scalars().all()
    if not found:
        connection.execute(_version.insert().values(version=VAULT_SCHEMA))
    elif found != [VAULT_SCHEMA]:
        raise ConfigurationError(
            f"Expected a vault of version {VAULT_SCHEMA}, got {found}: use the software that "
            "made it, or a newer one."
        )


def _to_key(row: Row[Any]) -> SubjectKey:
    return SubjectKey(row.id, row.tenant, row.subject, row.wrapped_key, row.kek_id)
