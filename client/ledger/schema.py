"""The ledger's tables, and how their rows become jobs. No column holds patient data.

Whoever changes a table here adds a revision to ``client.ledger.migrations.versions``; a test
compares the two.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from client.jobs import Job, JobState, Priority
from client.sql.moments import UtcDateTime

__all__ = ("chain_heads", "costs", "events", "jobs", "metadata", "served_models", "to_job")

metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant", String(63), nullable=False),
    Column("upload_id", String(36), nullable=False),
    Column("content_sha256", String(64), nullable=False),
    # NULL once another job of the same content may be entered.
    Column("content_key", String(64), nullable=True),
    Column("patient", String(64), nullable=False, default=""),
    Column("subject_key_id", String(64), nullable=False, default=""),
    Column("key_id", String(64), nullable=False, default=""),
    Column("rewrapped_dek", LargeBinary, nullable=False, default=b""),
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
    # ``client.ledger.service`` says what it is for.
    Column("made_with", String(64), nullable=False, default="", server_default=""),
    # The call that brought the study, as W3C ``traceparent``; NULL when nobody traces it.
    Column("trace", String(55), nullable=True),
    UniqueConstraint("tenant", "upload_id", name="one_job_for_each_upload"),
    UniqueConstraint("tenant", "content_key", name="one_job_for_each_content"),
    Index("jobs_by_state", "state", "not_before"),
    Index("jobs_by_tenant", "tenant", "created_at", "id"),
    Index("jobs_by_patient", "tenant", "patient"),
    Index("jobs_by_key", "key_id", "id"),
    Index("jobs_by_object", "object_key"),
    Index("jobs_by_result", "result_key"),
)

# Written once, never changed; ``client.ledger.audit`` says what the hash covers.
events = Table(
    "events",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at", UtcDateTime, nullable=False),
    Column("actor", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("job_id", String(36), nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("code", String(64), nullable=False),
    Column("detail", Text, nullable=False),
    Column("hash", String(64), nullable=False),
    Index("events_by_job", "job_id", "number"),
)

# The end of each tenant's chain: whoever cuts it off cannot write this row anew.
chain_heads = Table(
    "chain_heads",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("mac", String(64), nullable=False),
)

# What each worker said last that it serves; it counts until ``until``.
served_models = Table(
    "served_models",
    metadata,
    Column("worker", String(128), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("models", Text, nullable=False),
    Column("until", UtcDateTime, nullable=False),
)

# What each attempt took, a row for each of its models; ``client.ledger.spent``. Never changed.
costs = Table(
    "costs",
    metadata,
    Column("job_id", String(36), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    # "" when the attempt came to no model.
    Column("model", String(64), primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    # The job's, after the attempt.
    Column("state", String(16), nullable=False),
    Column("version", String(32), nullable=False),
    Column("engine", String(128), nullable=False),
    Column("device", String(16), nullable=False),
    Column("slices", Integer, nullable=False),
    # Microseconds, so that sums are exact.
    Column("engine_us", BigInteger, nullable=False),
    Column("cpu_us", BigInteger, nullable=False),
    Column("fetched_bytes", BigInteger, nullable=False),
    Column("stored_bytes", BigInteger, nullable=False),
)

_PLAIN = tuple(name for name in Job.__dataclass_fields__ if name in jobs.c)


def to_job(row: Row[Any]) -> Job:
    """Return the job that a row of ``jobs`` describes."""
    values = row._mapping
    plain = {name: values[name] for name in _PLAIN}
    return Job(
        **plain | {"priority": Priority(plain["priority"]), "state": JobState(plain["state"])}
    )
