"""Everything in the ledger that says what jobs cost, a page of jobs at a time.

    jobs ──┬─ costs: engine, cores, bytes of each attempt
           └─ events: when objects came and went, who fetched a result ──▶ JobSpending

Attempts write ``costs``; the rest is told by jobs and by the audit trail, which are there already,
so that no second book can differ from the first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, and_, not_, or_, select

from client.audittrail import Outcome
from client.jobs import JobState
from client.ledger.records import AttemptCost
from client.ledger.schema import costs, events, jobs
from client.ledger.transitions import WITHDRAWN

__all__ = (
    "JobSpending",
    "SpentAttempt",
    "costs_of",
    "events_of",
    "job_spending",
    "spending_jobs",
)

_FETCHED = "call.FetchResult"
_RESULT_STORED = ("job.finished", "job.rejected")
_RESULT_GONE = ("job.expired", "job.erased")
_STUDY_GONE = (*_RESULT_GONE, "job.study_expired")
_TOLD = (_FETCHED, *_RESULT_STORED, *_STUDY_GONE)


@dataclass(frozen=True, slots=True)
class SpentAttempt:
    """What an attempt took with one of its models, and when it ended."""

    attempt: int
    at: datetime
    state: JobState
    cost: AttemptCost


@dataclass(frozen=True, slots=True)
class JobSpending:
    """What is known of one job's cost.

    Attributes:
        id: The job.
        tenant: Whose.
        created_at: When the study had come in and was stored.
        study_bytes: Its ciphertext.
        study_gone_at: When it was deleted, None while it is there.
        result_bytes: The result's ciphertext, 0 when there is none.
        result_at: When it was stored, None when there is none.
        result_gone_at: When it was deleted, None while it is there.
        fetched_at: When the result was fetched, once for each time.
        ended: Number of attempts that have ended, with or without rows.
        attempts: What is known of them, ordered by attempt and model.
    """

    id: str
    tenant: str
    created_at: datetime
    study_bytes: int
    study_gone_at: datetime | None
    result_bytes: int
    result_at: datetime | None
    result_gone_at: datetime | None
    fetched_at: tuple[datetime, ...]
    ended: int
    attempts: tuple[SpentAttempt, ...]


def spending_jobs(since: datetime, until: datetime, after: str, limit: int) -> Select[Any]:
    """Ask for jobs that may have cost something in a period, by id.

    Args:
        since: Begin of the period.
        until: Its end.
        after: Only ids after this one.
        limit: At most this many.
    """
    # Whatever still has an object is kept, however old; of the others the last change counts.
    living = or_(not_(WITHDRAWN), jobs.c.updated_at >= since)
    query = select(
        jobs.c.id,
        jobs.c.tenant,
        jobs.c.state,
        jobs.c.attempt,
        jobs.c.created_at,
        jobs.c.object_bytes,
        jobs.c.result_bytes,
    )
    query = query.where(and_(jobs.c.created_at < until, living, jobs.c.id > after))
    return query.order_by(jobs.c.id).limit(limit)


def costs_of(job_ids: Sequence[str]) -> Select[Any]:
    """Ask for everything that attempts of these jobs have entered."""
    chosen = select(costs).where(costs.c.job_id.in_(tuple(job_ids)))
    return chosen.order_by(costs.c.job_id, costs.c.attempt, costs.c.model)


def events_of(job_ids: Sequence[str]) -> Select[Any]:
    """Ask when objects of these jobs came, went and were fetched."""
    chosen = select(events.c.job_id, events.c.action, events.c.at).where(
        events.c.job_id.in_(tuple(job_ids)),
        events.c.action.in_(_TOLD),
        events.c.outcome == Outcome.OK.value,
    )
    return chosen.order_by(events.c.job_id, events.c.number)


def job_spending(
    found: Sequence[Row[Any]], cost_rows: Sequence[Row[Any]], event_rows: Sequence[Row[Any]]
) -> tuple[JobSpending, ...]:
    """Put together what the three queries found."""
    attempts: Mapping[str, list[SpentAttempt]] = defaultdict(list)
    for row in cost_rows:
        attempts[row.job_id].append(_attempt(row))
    told: Mapping[str, list[tuple[str, datetime]]] = defaultdict(list)
    for row in event_rows:
        told[row.job_id].append((row.action, row.at))
    return tuple(_spending(row, attempts[row.id], told[row.id]) for row in found)


def _attempt(row: Row[Any]) -> SpentAttempt:
    cost = AttemptCost(**{name: row._mapping[name] for name in AttemptCost.__dataclass_fields__})
    return SpentAttempt(row.attempt, row.at, JobState(row.state), cost)


def _spending(
    row: Row[Any], attempts: Sequence[SpentAttempt], told: Sequence[tuple[str, datetime]]
) -> JobSpending:
    stored = [at for action, at in told if action in _RESULT_STORED]
    return JobSpending(
        id=row.id,
        tenant=row.tenant,
        created_at=row.created_at,
        study_bytes=row.object_bytes,
        study_gone_at=_first(told, _STUDY_GONE),
        result_bytes=row.result_bytes,
        result_at=stored[-1] if stored and row.result_bytes else None,
        result_gone_at=_first(told, _RESULT_GONE),
        fetched_at=tuple(at for action, at in told if action == _FETCHED),
        ended=row.attempt - (row.state == JobState.RUNNING.value),
        attempts=tuple(attempts),
    )


def _first(told: Sequence[tuple[str, datetime]], actions: Sequence[str]) -> datetime | None:
    return next((at for action, at in told if action in actions), None)
