"""The job's state machine as SQL: which rows a step may change, and what it changes in them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, or_

from client.errors import RefusalCode
from client.jobs import Job, JobState
from client.storage.records import JobResult
from client.storage.schema import jobs

__all__ = (
    "UNFINISHED",
    "claimed",
    "ended",
    "held_by",
    "lapsed",
    "result_columns",
    "unowned",
    "waiting",
)

_IS_QUEUED = jobs.c.state == JobState.QUEUED.value
_IS_RUNNING = jobs.c.state == JobState.RUNNING.value
UNFINISHED = or_(_IS_QUEUED, _IS_RUNNING)
"""Rows that a further change can come to."""


def unowned(now: datetime) -> ColumnElement[bool]:
    """Rows that a worker may claim, as far as their tries allow: due, or with a lapsed lease."""
    return or_(and_(_IS_QUEUED, jobs.c.not_before <= now), lapsed(now))


def lapsed(now: datetime) -> ColumnElement[bool]:
    """Rows whose worker has not been heard of for the length of its lease."""
    return and_(_IS_RUNNING, jobs.c.lease_expires_at <= now)


def held_by(job: Job) -> ColumnElement[bool]:
    """The job's row, while it runs under the attempt that ``job`` is of: the fence."""
    return and_(jobs.c.id == job.id, jobs.c.attempt == job.attempt, _IS_RUNNING)


def claimed(owner: str, lease_end: datetime) -> dict[str, Any]:
    """Begin a new attempt."""
    return {
        "state": JobState.RUNNING.value,
        "attempt": jobs.c.attempt + 1,
        "tries": jobs.c.tries + 1,
        "owner": owner,
        "stage": "",
        "progress": 0.0,
        "lease_expires_at": lease_end,
    }


def waiting(now: datetime, delay_s: float) -> dict[str, Any]:
    """Go back to the queue, due after a delay."""
    return {
        "state": JobState.QUEUED.value,
        "stage": "",
        "progress": 0.0,
        "owner": "",
        "lease_expires_at": None,
        "not_before": now + timedelta(seconds=delay_s),
    }


def ended(state: JobState, code: RefusalCode | str = "", reason: str = "") -> dict[str, Any]:
    """Come to a terminal state."""
    return {
        "state": state.value,
        "stage": "",
        "code": str(code),
        "reason": reason,
        "lease_expires_at": None,
    }


def result_columns(result: JobResult) -> dict[str, Any]:
    """Point to a stored result."""
    return {
        "result_key": result.stored.key,
        "result_bytes": result.stored.length,
        "result_sha256": result.stored.sha256,
        "result_header": result.header,
    }
