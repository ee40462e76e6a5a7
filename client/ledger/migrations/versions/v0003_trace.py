"""Adds the sender's trace, so that what a worker does joins it even after the queue was lost."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

__all__ = ("down_revision", "revision", "upgrade")

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the column; what was sent before belongs to no trace."""
    op.add_column("jobs", sa.Column("trace", sa.String(55), nullable=True))
