"""Brings a ledger's database to the newest revision, or refuses one that it does not know."""

from __future__ import annotations

from pathlib import Path

from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, inspect

from client.errors import ConfigurationError

__all__ = ("upgrade",)


def upgrade(connection: Connection) -> None:
    """Run the revisions that are missing, within the transaction of this connection.

    Raises:
        ConfigurationError: The database is of a newer version of this program, or its tables were
            not made by these revisions.
    """
    scripts = ScriptDirectory(str(Path(__file__).parent))
    context = MigrationContext.configure(connection)
    current = context.get_current_revision()
    if current is None and inspect(connection).has_table("jobs"):
        raise ConfigurationError(
            "The ledger's database has tables of an unreleased version: choose another database."
        )
    try:
        missing = tuple(scripts.iterate_revisions("head", current or "base"))
    except CommandError as error:
        raise ConfigurationError(
            f"The ledger's database is at revision {current}, which this version does not know: "
            "install the version that made it, or a newer one."
        ) from error
    with Operations.context(context):
        for revision in reversed(missing):
            revision.module.upgrade()
    if missing:
        context.stamp(scripts, "head")
