"""Divides what a job took into entries, each of one moment and one model.

    JobSpending ──┬─ an attempt, one of its models   at its end
                  ├─ the study came in               at its receipt
                  ├─ the result was fetched          each time, whole
                  └─ study, result lay in the store  a part for each month

What belongs to the job as a whole goes to the model that answered most slices in its last attempt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from client.costs.amounts import Amounts, Engine

if TYPE_CHECKING:
    from client.ledger.spent import JobSpending, SpentAttempt

__all__ = ("Entry", "Period", "entries")

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Period:
    """From ``since`` on, up to but not with ``until``."""

    since: datetime
    until: datetime

    def __contains__(self, moment: datetime) -> bool:
        return self.since <= moment < self.until


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that was used.

    Attributes:
        at: When; of what lasts, when it began within its month.
        tenant: For whom.
        job_id: For which study.
        model: "" for none.
        amounts: How much.
    """

    at: datetime
    tenant: str
    job_id: str
    model: str
    amounts: Amounts


def entries(job: JobSpending, period: Period) -> Iterator[Entry]:
    """Yield what a job took within a period."""
    model = _main_model(job)
    for spent in job.attempts:
        if spent.at in period:
            first = next(one for one in job.attempts if one.attempt == spent.attempt)
            amounts = _of_attempt(spent, counts=first is spent)
            yield Entry(spent.at, job.tenant, job.id, spent.cost.model, amounts)
    for at, amounts in (*_moved(job, period), *_kept(job, period)):
        yield Entry(at, job.tenant, job.id, model, amounts)


def _main_model(job: JobSpending) -> str:
    if not job.attempts:
        return ""
    last = [spent for spent in job.attempts if spent.attempt == job.attempts[-1].attempt]
    return max(last, key=lambda spent: spent.cost.slices).cost.model


def _of_attempt(spent: SpentAttempt, *, counts: bool) -> Amounts:
    cost = spent.cost
    engine = {Engine(cost.device, cost.engine): cost.engine_us} if cost.model else {}
    return Amounts(
        attempts=int(counts),
        slices=cost.slices,
        engine_us=engine,
        cpu_us=cost.cpu_us,
        fetched_bytes=cost.fetched_bytes,
    )


def _moved(job: JobSpending, period: Period) -> Iterator[tuple[datetime, Amounts]]:
    if job.created_at in period:
        told = len({spent.attempt for spent in job.attempts})
        unaccounted = max(0, job.ended - told)
        came = Amounts(studies=1, unaccounted=unaccounted, received_bytes=job.study_bytes)
        yield job.created_at, came
    for at in job.fetched_at:
        if at in period:
            yield at, Amounts(sent_bytes=job.result_bytes)


def _kept(job: JobSpending, period: Period) -> Iterator[tuple[datetime, Amounts]]:
    yield from _lay(job.study_bytes, job.created_at, job.study_gone_at, period)
    if job.result_at is not None:
        yield from _lay(job.result_bytes, job.result_at, job.result_gone_at, period)


def _lay(
    size: int, since: datetime, until: datetime | None, period: Period
) -> Iterator[tuple[datetime, Amounts]]:
    """Yield a part for each calendar month (UTC) in which an object lay in the store."""
    begin, end = max(since, period.since), min(until or period.until, period.until)
    while begin < end:
        month_end = min(_next_month(begin), end)
        yield begin, Amounts(kept_byte_us=size * ((month_end - begin) // _MICROSECOND))
        begin = month_end


def _next_month(moment: datetime) -> datetime:
    later = moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (later + timedelta(days=32)).replace(day=1)
