"""The databases that contract tests run on: SQLite always, PostgreSQL where it can be had."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from client.ledger.ledger import Ledger
from tests.ledgers import AUDIT_KEY, Clock
from tests.postgres import postgres_url


@pytest.fixture(scope="session")
def postgres() -> Iterator[str | None]:
    """One PostgreSQL for all tests; None when there is none."""
    with postgres_url() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'database.sqlite'}"
    server: str | None = request.getfixturevalue("postgres")
    if server is None:
        pytest.skip("no PostgreSQL: set HOUNSFIELD_TEST_POSTGRES_URL or install postgresql")
    name = f"test_{uuid.uuid4().hex}"
    plain = make_url(server).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return make_url(server).set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def clock() -> Clock:
    """A clock that tests move."""
    return Clock()


@pytest.fixture
async def ledger(url: str, clock: Clock) -> AsyncIterator[Ledger]:
    """An empty ledger."""
    async with Ledger(url, AUDIT_KEY, max_attempts=3, clock=clock) as opened:
        yield opened
