"""Runs transactions to their end, whoever stops waiting for them.

A task that is cancelled in the middle of a database call would leave a connection that nobody
closes, and with SQLite a lock that nobody gives back. So each transaction is a task of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, Select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from client.sql.database import (
    READERS,
    open_database,
    open_reader,
    prepare_schema,
    translated,
)

__all__ = ("Database",)

T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[T]]


class Database:
    """Connections to one SQL database.

    Args:
        url: SQLAlchemy URL, SQLite (aiosqlite) or PostgreSQL (psycopg).
        name: What people call this database.
        write_ahead: Whether SQLite may keep a write-ahead log; see ``open_database``.

    Every method that talks to it raises Transient when it is away. Cancelling one raises
    CancelledError once its transaction has ended.
    """

    def __init__(self, url: str, name: str, *, write_ahead: bool = True) -> None:
        self._engine = open_database(url, write_ahead=write_ahead)
        self._reader = open_reader(url, write_ahead=write_ahead)
        self._threads = ThreadPoolExecutor(READERS, f"{name}-reader")
        self._name = name
        self._running: set[asyncio.Task[Any]] = set()

    async def open(self, prepare: Callable[[Connection], None]) -> None:
        """Connect, and make the tables what they must be."""
        try:
            await self._to_its_end(self._prepare(prepare))
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close every connection, after what still runs."""
        await self._to_its_end(self._close(set(self._running)))

    async def fetch(self, query: Select[Any]) -> list[Row[Any]]:
        """Return what a query finds; it does not wait for writers."""
        return await self._to_its_end(self._fetched(query))

    async def read(self, work: Work[T]) -> T:
        """Run a transaction of several queries that only reads; it does not wait for writers."""
        only_reads = self._engine.execution_options(only_reads=True)
        return await self._to_its_end(self._within(only_reads, work))

    async def write(self, work: Work[T]) -> T:
        """Run a transaction.

        Raises:
            IntegrityError: It breaks a uniqueness rule; nothing was changed.
        """
        return await self._to_its_end(self._within(self._engine, work))

    async def _prepare(self, prepare: Callable[[Connection], None]) -> None:
        with translated(self._name):
            await prepare_schema(self._engine, prepare)

    async def _fetched(self, query: Select[Any]) -> list[Row[Any]]:
        loop = asyncio.get_running_loop()
        with translated(self._name):
            return await loop.run_in_executor(self._threads, self._found, query)

    def _found(self, query: Select[Any]) -> list[Row[Any]]:
        with self._reader.begin() as connection:
            return list(connection.execute(query).all())

    async def _within(self, engine: AsyncEngine, work: Work[T]) -> T:
        with translated(self._name):
            async with engine.begin() as connection:
                return await work(connection)

    async def _close(self, running: set[asyncio.Task[Any]]) -> None:
        await asyncio.gather(*running, return_exceptions=True)
        await self._engine.dispose()
        await asyncio.to_thread(self._reader.dispose)
        self._threads.shutdown(wait=False)

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            while not task.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # whoever waited is gone: nobody else will look at it
            raise
