"""The revisions lead to the tables that the code declares, and no further."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from client.errors import ConfigurationError
from client.ledger.ledger import Ledger
from client.ledger.migrations.upgrading import newest_revision
from client.ledger.schema import metadata
from tests.ledgers import AUDIT_KEY, raw_sql, submitted

pytestmark = pytest.mark.contract


def _differences(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    found: list[Any] = compare_metadata(context, metadata)
    return found


async def test_the_revisions_make_the_declared_tables(url: str) -> None:
    async with Ledger(url, AUDIT_KEY):
        pass
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        assert await connection.run_sync(_differences) == []
    await engine.dispose()
    assert await raw_sql(url, "SELECT version_num FROM alembic_version") == [(newest_revision(),)]


async def test_opening_again_changes_nothing(url: str) -> None:
    async with Ledger(url, AUDIT_KEY) as ledger:
        job = await submitted(ledger)
    async with Ledger(url, AUDIT_KEY) as ledger:
        assert await ledger.get(job.id) == job
        assert [report.intact for report in await ledger.verify_chains()] == [True, True]


@pytest.mark.parametrize("_round", range(3))
async def test_many_may_open_an_empty_database_at_once(url: str, _round: int) -> None:
    ledgers = [Ledger(url, AUDIT_KEY) for _ in range(6)]
    await asyncio.gather(*(ledger.__aenter__() for ledger in ledgers))
    jobs = await asyncio.gather(*(submitted(ledger) for ledger in ledgers))
    assert len(await ledgers[0].known(job.id for job in jobs)) == len(ledgers)
    reports = await ledgers[0].verify_chains()
    assert [(report.events, report.faults) for report in reports] == [(1, ()), (6, ())]
    for ledger in ledgers:
        await ledger.__aexit__(None, None, None)


async def test_a_database_of_a_newer_version_is_refused(url: str) -> None:
    async with Ledger(url, AUDIT_KEY):
        pass
    await raw_sql(url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigurationError, match="9999"):
        await Ledger(url, AUDIT_KEY).__aenter__()


async def test_tables_that_no_revision_made_are_left_alone(url: str) -> None:
    await raw_sql(url, "CREATE TABLE jobs (id INTEGER)")
    with pytest.raises(ConfigurationError, match="another database"):
        await Ledger(url, AUDIT_KEY).__aenter__()
    assert await raw_sql(url, "SELECT * FROM jobs") == []
