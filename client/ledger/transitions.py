"""The job's state machine as SQL: which rows a step may change, and what it changes in them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, not_, or_

from client.errors import RefusalCode
from client.jobs import (
    TERMINAL_STATES,
    TRANSITIONS,
    WAITING_STATES,
    WITHDRAWN_CODES,
    Job,
    JobState,
)
from client.ledger.records import JobResult
from client.ledger.schema import jobs

__all__ = (
    "FINISHED",
    "HAS_STUDY",
    "UNFINISHED",
    "WITHDRAWN",
    "begun_again",
    "claimed",
    "ended",
    "held_by",
    "lapsed",
    "lost",
    "may_become",
    "result_columns",
    "unowned",
    "waiting",
    "withdrawn",
    "without_study",
)


def _in(states: Iterable[JobState]) -> ColumnElement[bool]:
    return jobs.c.state.in_(sorted(state.value for state in states))


_IS_RUNNING = jobs.c.state == JobState.RUNNING.value
_IS_WAITING = _in(WAITING_STATES)
FINISHED = _in(TERMINAL_STATES)
"""Rows that no worker changes any more."""
UNFINISHED = not_(FINISHED)
"""Rows that a further change can come to."""
WITHDRAWN = jobs.c.code.in_(sorted(WITHDRAWN_CODES))
"""Rows whose study and result are gone for good."""
HAS_STUDY = and_(not_(WITHDRAWN), jobs.c.object_key != "")
"""Rows whose study is still there."""


def may_become(state: JobState) -> ColumnElement[bool]:
    """Rows whose state ``TRANSITIONS`` lets become this one."""
    return _in(before for before, following in TRANSITIONS.items() if state in following)


def unowned(now: datetime) -> ColumnElement[bool]:
    """Rows that a worker may claim, as far as their tries allow: due, or with a lapsed lease."""
    return or_(and_(_IS_WAITING, jobs.c.not_before <= now), lapsed(now))


def lapsed(now: datetime) -> ColumnElement[bool]:
    """Rows whose worker has not been heard of for the length of its lease."""
    return and_(_IS_RUNNING, jobs.c.lease_expires_at <= now)


def lost(received_before: datetime) -> ColumnElement[bool]:
    """Rows that a queue should know by now: told of before, or received some time ago."""
    received = jobs.c.state == JobState.RECEIVED.value
    return or_(not_(received), jobs.c.updated_at <= received_before)


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
        "lease_expires_at": None,
        "not_before": now + timedelta(seconds=delay_s),
    }


def begun_again(now: datetime) -> dict[str, Any]:
    """Go back to the queue as if nothing had been tried; the attempt number still grows."""
    nothing = {"result_key": "", "result_bytes": 0, "result_sha256": "", "result_header": b""}
    return waiting(now, 0.0) | nothing | {"tries": 0, "code": "", "reason": ""}


def ended(state: JobState, code: RefusalCode | str = "", reason: str = "") -> dict[str, Any]:
    """Come to a terminal state; after all but DONE the same content may be entered anew."""
    change = {
        "state": state.value,
        "stage": "",
        "code": str(code),
        "reason": reason,
        "lease_expires_at": None,
    }
    return change if state is JobState.DONE else change | {"content_key": None}


def withdrawn(code: RefusalCode, reason: str) -> dict[str, Any]:
    """Lose study and result for good, in whatever terminal state."""
    return {"code": code.value, "reason": reason, "content_key": None}


def without_study() -> dict[str, Any]:
    """Lose the study but keep the result; when the job ended stays as it was."""
    gone = {"object_key": "", "key_id": "", "rewrapped_dek": b""}
    return gone | {"updated_at": jobs.c.updated_at}


def result_columns(result: JobResult) -> dict[str, Any]:
    """Point to a stored result."""
    return {
        "result_key": result.stored.key,
        "result_bytes": result.stored.length,
        "result_sha256": result.stored.sha256,
        "result_header": result.header,
    }
