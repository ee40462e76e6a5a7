"""Opens a SQL database with the settings that keep acknowledged rows.

SQLite: BEGIN IMMEDIATE for whatever writes (else two read-modify-write transactions lose updates
silently), synchronous=FULL (else power loss takes the last commits), and no write-ahead log below
SQLite 3.51.3, whose log could be corrupted by two writers. What is deleted is overwritten.
PostgreSQL: no session may hold a lock for long, not even one whose process was frozen.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from client.crypto.privatefiles import make_private_directory
from client.errors import ConfigurationError, Transient

__all__ = ("READERS", "open_database", "open_reader", "prepare_schema", "translated")

_LOCK_WAIT_MS = 10_000
_SQLITE_DRIVER = "sqlite+aiosqlite"
_POSTGRES_DRIVER = "postgresql+psycopg"
READERS = 4
"""Connections of ``open_reader``: as many threads may use it at one time."""
_READER_POOL: Any = {"pool_size": READERS, "max_overflow": 0}
_SQLITE: Any = {"hide_parameters": True}
_SQLITE_POOL: Any = {"pool_size": 4, "max_overflow": 4}
_POSTGRES_POOL: Any = {"pool_size": 8, "max_overflow": 6}
_POSTGRES: Any = {
    "pool_pre_ping": True,
    "hide_parameters": True,
    "connect_args": {
        "connect_timeout": 5,
        "keepalives_idle": 10,
        "tcp_user_timeout": 20_000,
        "options": "-c statement_timeout=20s -c lock_timeout=10s"
        " -c idle_in_transaction_session_timeout=20s",
    },
}
_SCHEMA_LOCK = 0x686F756E  # "houn": two processes that start at once must not both create tables
_WAL_IS_SAFE = sqlite3.sqlite_version_info >= (3, 51, 3)


def open_database(url: str, *, write_ahead: bool = True) -> AsyncEngine:
    """Return an engine that reads and writes; nothing is connected yet.

    Args:
        url: ``sqlite+aiosqlite:////absolute/file`` or ``postgresql+psycopg://…``.
        write_ahead: Whether SQLite may keep a write-ahead log. It is faster, but old rows stay in
            the log for a while after they were deleted.

    Raises:
        ConfigurationError: Another kind of URL.
    """
    parsed = _parsed(url)
    if parsed.drivername == _POSTGRES_DRIVER:
        return create_async_engine(parsed, **_POSTGRES, **_POSTGRES_POOL)
    _make_file(parsed)
    engine = create_async_engine(parsed, **_SQLITE, **_SQLITE_POOL)
    _listen(engine.sync_engine, write_ahead)
    return engine


def open_reader(url: str, *, write_ahead: bool = True) -> Engine:
    """Return an engine for threads that only read, and do not wait for writers.

    A query there is one change of threads. By way of an asynchronous engine it is nine with
    SQLite, which cost more than the query.

    Args:
        url: As for ``open_database``.
        write_ahead: As for ``open_database``.

    Raises:
        ConfigurationError: Another kind of URL.
    """
    parsed = _parsed(url)
    if parsed.drivername == _POSTGRES_DRIVER:
        engine = create_engine(parsed, **_POSTGRES, **_READER_POOL)
    else:
        _make_file(parsed)
        engine = create_engine(parsed.set(drivername="sqlite"), **_SQLITE, **_READER_POOL)
        _listen(engine, write_ahead)
    return engine.execution_options(only_reads=True)


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except exc.ArgumentError as error:
        raise ConfigurationError("The database's URL is not a SQLAlchemy URL.") from error
    if parsed.drivername not in (_SQLITE_DRIVER, _POSTGRES_DRIVER):
        raise ConfigurationError(
            f"Expected a database URL of {_SQLITE_DRIVER} or {_POSTGRES_DRIVER}, "
            f"got {parsed.drivername!r}."
        )
    return parsed


def _make_file(url: URL) -> None:
    path = Path(url.database or "")
    if not path.is_absolute():
        raise ConfigurationError(f"Expected an absolute path to the database file, got {path}.")
    make_private_directory(path.parent)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _listen(engine: Engine, write_ahead: bool) -> None:
    journal = "WAL" if write_ahead and _WAL_IS_SAFE else "TRUNCATE"
    event.listen(engine, "connect", lambda raw, _: _prepare_sqlite(raw, journal))
    event.listen(engine, "begin", _begin_sqlite)


def _prepare_sqlite(connection: Any, journal: str) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={_LOCK_WAIT_MS}",
        f"journal_mode={journal}",
        "synchronous=FULL",
        # What is deleted is overwritten with zeros: an erased key must not linger in the file.
        "secure_delete=ON",
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    only_reads = connection.get_execution_options().get("only_reads", False)
    connection.exec_driver_sql("BEGIN" if only_reads else "BEGIN IMMEDIATE")


async def prepare_schema(engine: AsyncEngine, prepare: Callable[[Connection], None]) -> None:
    """Make the tables what they must be; safe when several processes start at once."""
    async with engine.begin() as connection:
        await _lock_schema(connection)
        await connection.run_sync(prepare)


async def _lock_schema(connection: AsyncConnection) -> None:
    if connection.dialect.name == "postgresql":
        await connection.execute(text(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})"))


@contextlib.contextmanager
def translated(name: str) -> Iterator[None]:
    """Turn the database's errors into ours, by type.

    A broken uniqueness rule passes through: only the caller knows what it means.

    Args:
        name: What people call this database.

    Raises:
        Transient: It is away, locked or full.
        ConfigurationError: It is not the database we expect.
    """
    try:
        yield
    except exc.IntegrityError:
        raise
    except exc.ProgrammingError as error:
        raise ConfigurationError(
            f"The {name}'s database does not have the expected tables or rights."
        ) from error
    except (exc.DBAPIError, exc.TimeoutError, OSError) as error:
        raise Transient(f"The {name} is away ({type(error).__name__}); try again.") from error
