"""Adds which models each worker serves, and which ones a job was made with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

__all__ = ("down_revision", "revision", "upgrade")

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table and the column; what was made before is of unknown models."""
    op.create_table(
        "served_models",
        sa.Column("worker", sa.String(128), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("models", sa.Text, nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
    )
    op.add_column("jobs", sa.Column("made_with", sa.String(64), nullable=False, server_default=""))
