"""Makes the ledger's first tables: jobs, their events, and the ends of the chains of events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

__all__ = ("down_revision", "revision", "upgrade")

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables and indexes."""
    _make_jobs()
    _make_audit_trail()


def _make_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("upload_id", sa.String(36), nullable=False),
        sa.Column("content_sha256", sa.String(64), nullable=False),
        sa.Column("content_key", sa.String(64), nullable=True),
        sa.Column("patient", sa.String(64), nullable=False),
        sa.Column("subject_key_id", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("rewrapped_dek", sa.LargeBinary, nullable=False),
        sa.Column("priority", sa.String(16), nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("stage", sa.String(64), nullable=False),
        sa.Column("progress", sa.Float, nullable=False),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("object_key", sa.String(256), nullable=False),
        sa.Column("object_bytes", sa.BigInteger, nullable=False),
        sa.Column("object_sha256", sa.String(64), nullable=False),
        sa.Column("header", sa.LargeBinary, nullable=False),
        sa.Column("result_key", sa.String(256), nullable=False),
        sa.Column("result_bytes", sa.BigInteger, nullable=False),
        sa.Column("result_sha256", sa.String(64), nullable=False),
        sa.Column("result_header", sa.LargeBinary, nullable=False),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.UniqueConstraint("tenant", "upload_id", name="one_job_for_each_upload"),
        sa.UniqueConstraint("tenant", "content_key", name="one_job_for_each_content"),
    )
    op.create_index("jobs_by_state", "jobs", ["state", "not_before"])
    op.create_index("jobs_by_tenant", "jobs", ["tenant", "created_at", "id"])
    op.create_index("jobs_by_patient", "jobs", ["tenant", "patient"])
    op.create_index("jobs_by_key", "jobs", ["key_id", "id"])
    op.create_index("jobs_by_object", "jobs", ["object_key"])
    op.create_index("jobs_by_result", "jobs", ["result_key"])


def _make_audit_trail() -> None:
    op.create_table(
        "events",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("job_id", sa.String(36), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.create_index("events_by_job", "events", ["job_id", "number"])
    op.create_table(
        "chain_heads",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("mac", sa.String(64), nullable=False),
    )
