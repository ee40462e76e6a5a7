"""Brings a ledger's database to the newest revision, or refuses one that it does not know."""

from __future__ import annotations

from pathlib import Path

from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, inspect

from client.errors import ConfigurationError

__all__ = ("newest_revision", "upgrade")


def newest_revision() -> str:
    """Return the revision that this version's tables are of."""
    head = _scripts().get_current_head()
    if head is None:
        raise ConfigurationError("The package lacks the revisions of the ledger's tables.")
    return head


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(Path(__file__).parent))


def upgrade(connection: Connection) -> None:
    """Run the revisions that are missing, within the transaction of this connection.

    Raises:
        ConfigurationError: The database is of a newer version of this program, or its tables were
            not made by these revisions.
    """
    scripts = _scripts()
    context = MigrationContext.configure(connection)
    current = context.get_current_revision()
    if current is None and inspect(connection).has_table("jobs"):
        raise ConfigurationError(
            "The ledger's database has tables of an unreleased version: choose another database."
        )
    try:
        if current is not None:
            scripts.get_revision(current)
    except CommandError as error:
        raise ConfigurationError(
            f"The ledger's database is at revision {current}, which this version does not know: "
            "install the version that made it, or a newer one."
        ) from error
    missing = tuple(scripts.iterate_revisions("head", current or "base"))
    with Operations.context(context):
        for revision in reversed(missing):
            revision.module.upgrade()
    if missing:
        context.stamp(scripts, "head")
