"""Adds what each attempt at a study took, so that its cost can be told."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

__all__ = ("down_revision", "revision", "upgrade")

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the table; attempts that ended before have no row."""
    op.create_table(
        "costs",
        sa.Column("job_id", sa.String(36), primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("model", sa.String(64), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("engine", sa.String(128), nullable=False),
        sa.Column("device", sa.String(16), nullable=False),
        sa.Column("slices", sa.Integer, nullable=False),
        sa.Column("engine_us", sa.BigInteger, nullable=False),
        sa.Column("cpu_us", sa.BigInteger, nullable=False),
        sa.Column("fetched_bytes", sa.BigInteger, nullable=False),
        sa.Column("stored_bytes", sa.BigInteger, nullable=False),
    )
