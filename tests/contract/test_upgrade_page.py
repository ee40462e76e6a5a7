"""The way back that docs/upgrade.md describes leads to the older tables, and forward again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect
from sqlalchemy.ext.asyncio import create_async_engine

from client.ledger.ledger import Ledger
from client.ledger.migrations import upgrading
from client.ledger.migrations.upgrading import newest_revision
from tests.ledgers import AUDIT_KEY, raw_sql, submitted

pytestmark = pytest.mark.contract

PAGE = (Path(__file__).parents[2] / "docs" / "upgrade.md").read_text()
Tables = dict[str, set[str]]


def _tables(connection: Connection) -> Tables:
    found = inspect(connection)
    return {
        table: {column["name"] for column in found.get_columns(table)}
        for table in found.get_table_names()
        if table != "alembic_version"
    }


def _made_up_to(connection: Connection, revision: str) -> Tables:
    """Make the tables of an older revision, as that version did."""
    scripts = ScriptDirectory(str(Path(upgrading.__file__).parent))
    steps = tuple(scripts.iterate_revisions(revision, "base"))
    with Operations.context(MigrationContext.configure(connection)):
        for step in reversed(steps):
            step.module.upgrade()
    return _tables(connection)


async def _look(url: str) -> Tables:
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        tables = await connection.run_sync(_tables)
    await engine.dispose()
    return tables


async def test_back_to_the_older_tables_and_forward_again(url: str, tmp_path: Path) -> None:
    (block,) = re.findall(r"```sql\n(BEGIN;.*?)```", PAGE, re.DOTALL)
    steps = [step.strip() for step in block.split(";") if step.strip()]
    assert (steps[0], steps[-1]) == ("BEGIN", "COMMIT")
    newest, older = re.findall(
        r"revision \(`(\d+)`\) to that of the\nfirst release \(`(\d+)`\)", PAGE
    )[0]
    assert newest == newest_revision()
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'older.sqlite'}")
    async with engine.begin() as connection:
        expected = await connection.run_sync(_made_up_to, older)
    await engine.dispose()

    async with Ledger(url, AUDIT_KEY) as ledger:
        job = await submitted(ledger)
    newer = await _look(url)
    assert newer != expected
    for step in steps[1:-1]:
        await raw_sql(url, step)
    assert await _look(url) == expected
    assert await raw_sql(url, "SELECT version_num FROM alembic_version") == [(older,)]

    async with Ledger(url, AUDIT_KEY) as ledger:
        assert await ledger.get(job.id) == job
        assert all(report.intact for report in await ledger.verify_chains())
    assert await _look(url) == newer
