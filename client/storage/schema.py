"""The ledger's tables, and how their rows become jobs. No column holds patient data."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

from client.jobs import Job, JobState, Priority

__all__ = ("job_events", "jobs", "metadata", "to_job")


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC; SQLite keeps no time zone, so it is taken off and put back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a moment without a zone; store UTC."""
        if value is None:
            return None
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the moment in UTC."""
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant", String(63), nullable=False),
    Column("upload_id", String(36), nullable=False),
    Column("content_sha256", String(64), nullable=False),
    Column("priority", String(16), nullable=False),
    Column("model", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    # The fence: grows with every claim, and only its holder may write.
    Column("attempt", Integer, nullable=False, default=0),
    # Attempts that count against the limit; one that was handed back unharmed does not.
    Column("tries", Integer, nullable=False, default=0),
    Column("stage", String(64), nullable=False, default=""),
    Column("progress", Float, nullable=False, default=0.0),
    Column("code", String(64), nullable=False, default=""),
    Column("reason", Text, nullable=False, default=""),
    Column("object_key", String(256), nullable=False),
    Column("object_bytes", BigInteger, nullable=False),
    Column("object_sha256", String(64), nullable=False),
    Column("header", LargeBinary, nullable=False),
    Column("result_key", String(256), nullable=False, default=""),
    Column("result_bytes", BigInteger, nullable=False, default=0),
    Column("result_sha256", String(64), nullable=False, default=""),
    Column("result_header", LargeBinary, nullable=False, default=b""),
    Column("owner", String(128), nullable=False, default=""),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("not_before", UtcDateTime, nullable=False),
    Column("lease_expires_at", UtcDateTime, nullable=True),
    UniqueConstraint("tenant", "upload_id"),
    Index("jobs_by_state", "state", "not_before"),
    Index("jobs_by_tenant", "tenant", "created_at", "id"),
)

job_events = Table(
    "job_events",
    metadata,
    Column(
        "number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    ),
    Column("job_id", String(36), ForeignKey("jobs.id"), nullable=False, index=True),
    Column("at", UtcDateTime, nullable=False),
    Column("event", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("code", String(64), nullable=False),
    Column("detail", Text, nullable=False),
)

_PLAIN = tuple(name for name in Job.__dataclass_fields__ if name not in ("priority", "state"))


def to_job(row: Row[Any]) -> Job:
    """Return the job that a row of ``jobs`` describes."""
    values = row._mapping
    return Job(
        priority=Priority(values["priority"]),
        state=JobState(values["state"]),
        **{name: values[name] for name in _PLAIN},
    )
