"""What the ledger's tests share: studies to enter, a clock to move, and tampering by raw SQL."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from client.jobs import Job, Priority
from client.ledger.ledger import Ledger
from client.ledger.records import AttemptCost, JobResult, NewJob, ServedModel
from client.objectstore.objects import StoredObject

__all__ = (
    "AUDIT_KEY",
    "LEASE_S",
    "Clock",
    "cost_of",
    "history",
    "new_job",
    "raw_sql",
    "result_of",
    "served",
    "submitted",
)

LEASE_S = 30.0
AUDIT_KEY = bytes(range(32))


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(microseconds=1)
        return self.now

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)


def new_job(**changes: Any) -> NewJob:
    """A study of its own that was just stored, but for these fields."""
    job_id = str(uuid.uuid4())
    plain = NewJob(
        id=job_id,
        tenant="radiology",
        upload_id=str(uuid.uuid4()),
        priority=Priority.ROUTINE,
        model="brain_mr",
        content_sha256="c" * 64,
        stored=StoredObject(f"studies/{job_id}", 1000, "a" * 64),
        header=b"header",
    )
    return replace(plain, **changes)


def served(version: int = 1, **changes: Any) -> ServedModel:
    """A model as a worker serves it, but for these fields."""
    plain = ServedModel("brain_mr", str(version), "OpenVINO f32", f"{version:064x}", "d" * 64)
    return replace(plain, **changes)


def result_of(job: Job) -> JobResult:
    """A stored result of this attempt."""
    return JobResult(StoredObject(f"results/{job.id}-{job.attempt}", 77, "b" * 64), b"result")


def cost_of(model: str = "brain_mr", **changes: Any) -> AttemptCost:
    """What an attempt took, but for these fields."""
    plain = AttemptCost(model, "1", "OpenVINO f32", "cpu", 20, 1_500_000, 700_000, 1000, 77)
    return replace(plain, **changes)


async def submitted(ledger: Ledger, **changes: Any) -> Job:
    """Enter a new job."""
    job, created = await ledger.submit(new_job(**changes))
    assert created
    return job


async def history(ledger: Ledger, job: Job) -> list[str]:
    """Names of what happened to a job, oldest first."""
    return [event.action for event in await ledger.events(job.id)]


async def raw_sql(url: str, *statements: str, **values: Any) -> Sequence[Any]:
    """Do what someone with the database's password could do; return the last one's rows."""
    engine = create_async_engine(url)
    try:
        async with engine.begin() as connection:
            for statement in statements:
                done = await connection.execute(text(statement), values)
            return done.all() if done.returns_rows else ()
    finally:
        await engine.dispose()
