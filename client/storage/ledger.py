"""The ledger of jobs: the one truth about who owns a study and what became of it.

    queued ──claim──▶ running ──finish │ reject │ fail──▶ done │ rejected │ failed
       ▲  └──cancel──▶ cancelled ◀──cancel──┘  │
       └──────────retry, release───────────────┘

Every write of a worker is fenced: it counts only while the job is running under the attempt
number that the worker claimed. Every change is also a row in ``job_events``, never altered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from sqlalchemy import ColumnElement, and_, func, or_, select, text, true
from sqlalchemy.exc import IntegrityError

from client.errors import Conflict, LeaseLost, NotFound, RefusalCode
from client.jobs import Job, JobState
from client.storage.jobtable import JobTable
from client.storage.records import Backlog, JobEvent, JobPage, JobResult, NewJob
from client.storage.schema import job_events, jobs, to_job
from client.storage.transitions import (
    UNFINISHED,
    claimed,
    ended,
    held_by,
    lapsed,
    result_columns,
    unowned,
    waiting,
)

__all__ = ("Ledger",)


class Ledger:
    """Jobs in a SQL database.

    Args:
        url: SQLAlchemy URL, SQLite (aiosqlite) or PostgreSQL (psycopg).
        max_attempts: Tries that count before a job fails with RETRIES_EXHAUSTED.
        clock: Says what time it is; all processes of one ledger need nearly the same time.

    Every method raises Transient when the database is away.
    """

    def __init__(
        self,
        url: str,
        *,
        max_attempts: int = 3,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._table = JobTable(url, clock)
        self._max_attempts = max_attempts
        self._clock = clock

    async def __aenter__(self) -> Self:
        """Connect, and create the tables that are missing."""
        await self._table.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every connection."""
        await self._table.close()

    async def ping(self) -> None:
        """Ask the database for a sign of life."""
        await self._table.fetch(select(text("1")))

    # Senders, through the gateway.

    async def submit(self, new: NewJob) -> tuple[Job, bool]:
        """Enter a stored study, once for each tenant and upload id.

        Returns:
            The job, and whether it is new; an earlier one of the same content is returned as it is.

        Raises:
            Conflict: The upload id was used for other content.
        """
        now = self._clock()
        values = {
            "id": new.id,
            "tenant": new.tenant,
            "upload_id": new.upload_id,
            "content_sha256": new.content_sha256,
            "priority": new.priority.value,
            "model": new.model,
            "state": JobState.QUEUED.value,
            "object_key": new.stored.key,
            "object_bytes": new.stored.length,
            "object_sha256": new.stored.sha256,
            "header": new.header,
            "created_at": now,
            "updated_at": now,
            "not_before": now,
        }
        with contextlib.suppress(IntegrityError):
            return await self._table.insert(values, "submitted"), True
        earlier = await self.find_upload(new.tenant, new.upload_id, new.content_sha256)
        if earlier is None:
            raise Conflict(f"Job id {new.id} is taken.")
        return earlier, False

    async def find_upload(self, tenant: str, upload_id: str, content_sha256: str) -> Job | None:
        """Return the job of an earlier upload, None when there was none.

        Raises:
            Conflict: It was of other content.
        """
        where = and_(jobs.c.tenant == tenant, jobs.c.upload_id == upload_id)
        rows = await self._table.fetch(select(jobs).where(where))
        if not rows:
            return None
        if rows[0].content_sha256 != content_sha256:
            raise Conflict(
                f"Upload id {upload_id} was used for other content: make a new id for new content."
            )
        return to_job(rows[0])

    async def get(self, job_id: str, tenant: str | None = None) -> Job:
        """Return one job.

        Args:
            job_id: Its id.
            tenant: Whose it must be; None for the worker, which serves all.

        Raises:
            NotFound: No such job, or another tenant's.
        """
        where = jobs.c.id == job_id
        if tenant is not None:
            where = and_(where, jobs.c.tenant == tenant)
        rows = await self._table.fetch(select(jobs).where(where))
        if not rows:
            raise NotFound(f"No job {job_id}.")
        return to_job(rows[0])

    async def list_jobs(
        self,
        tenant: str,
        *,
        state: JobState | None = None,
        page_size: int = 50,
        page_token: str = "",
    ) -> JobPage:
        """Return a page of a tenant's jobs, newest first.

        Args:
            tenant: Whose.
            state: Only those in this state; None for all.
            page_size: At most this many.
            page_token: ``next_token`` of the page before; "" for the first.

        Raises:
            NotFound: The token is not one of ours.
        """
        query = select(jobs).where(jobs.c.tenant == tenant)
        if state is not None:
            query = query.where(jobs.c.state == state.value)
        if page_token:
            last = await self.get(page_token, tenant)
            same_moment = and_(jobs.c.created_at == last.created_at, jobs.c.id < last.id)
            query = query.where(or_(jobs.c.created_at < last.created_at, same_moment))
        query = query.order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(page_size + 1)
        found = [to_job(row) for row in await self._table.fetch(query)]
        more = len(found) > page_size
        return JobPage(tuple(found[:page_size]), found[page_size - 1].id if more else "")

    async def cancel(self, tenant: str, job_id: str) -> Job:
        """Cancel a job unless it is finished; return it as it is then.

        A worker that is busy with it loses its lease.

        Raises:
            NotFound: No such job, or another tenant's.
        """
        where = and_(jobs.c.id == job_id, jobs.c.tenant == tenant, UNFINISHED)
        change = ended(JobState.CANCELLED)
        cancelled = await self._table.change(where, change, "cancelled")
        return cancelled[0] if cancelled else await self.get(job_id, tenant)

    async def backlog(self) -> Backlog:
        """Return how much unfinished work there is, of all tenants."""
        total = func.coalesce(func.sum(jobs.c.object_bytes), 0)
        query = select(func.count().label("waiting"), total.label("held"))
        row = (await self._table.fetch(query.where(UNFINISHED)))[0]
        return Backlog(row.waiting, int(row.held))

    async def counts(self) -> dict[JobState, int]:
        """Return the number of jobs in each state that occurs."""
        query = select(jobs.c.state, func.count().label("number")).group_by(jobs.c.state)
        return {JobState(row.state): row.number for row in await self._table.fetch(query)}

    async def events(self, job_id: str) -> tuple[JobEvent, ...]:
        """Return a job's history, oldest first."""
        query = select(job_events).where(job_events.c.job_id == job_id)
        rows = await self._table.fetch(query.order_by(job_events.c.number))
        return tuple(
            JobEvent(r.at, r.event, JobState(r.state), r.attempt, r.code, r.detail) for r in rows
        )

    # Workers.

    async def claim(self, job_id: str, owner: str, lease_s: float) -> Job:
        """Take a job that waits, or whose lease has run out, under a new attempt number.

        Args:
            job_id: The job that the queue named.
            owner: Who claims, for the history.
            lease_s: Seconds until others may take it over without a heartbeat.

        Raises:
            LeaseLost: It is finished, not due yet, or in other hands: drop the queue's entry. A
                job whose attempts are used up is failed on the way.
            NotFound: No such job.
        """
        now = self._clock()
        change = claimed(owner, now + timedelta(seconds=lease_s))
        where = and_(jobs.c.id == job_id, self._claimable(now))
        taken = await self._table.change(where, change, "claimed", owner)
        if not taken:
            await self._exhaust(jobs.c.id == job_id)
            job = await self.get(job_id)
            raise LeaseLost(f"Job {job_id} cannot be claimed now: its state is {job.state}.")
        return taken[0]

    async def heartbeat(self, job: Job, stage: str, progress: float, lease_s: float) -> None:
        """Keep a claimed job for longer, and say how far it is.

        Raises:
            LeaseLost: It is no longer ours.
        """
        now = self._clock()
        change = {
            "stage": stage,
            "progress": progress,
            "lease_expires_at": now + timedelta(seconds=lease_s),
        }
        await self._fenced(job, change, "")

    async def finish(self, job: Job, result: JobResult) -> Job:
        """Record a stored result.

        Raises:
            LeaseLost: The job is no longer ours; delete the result.
        """
        change = ended(JobState.DONE) | result_columns(result) | {"progress": 1.0}
        return await self._fenced(job, change, "finished")

    async def reject(
        self, job: Job, code: RefusalCode, reason: str, result: JobResult | None = None
    ) -> Job:
        """Record that the study cannot be processed as it is.

        Args:
            job: As it was claimed.
            code: The stable reason.
            reason: One sentence without patient data.
            result: An encrypted report for the sender, if there is one.

        Raises:
            LeaseLost: The job is no longer ours.
        """
        change = ended(JobState.REJECTED, code, reason)
        if result is not None:
            change |= result_columns(result)
        return await self._fenced(job, change, "rejected")

    async def fail(self, job: Job, code: RefusalCode, reason: str) -> Job:
        """Record a failure that no further attempt would mend.

        Raises:
            LeaseLost: The job is no longer ours.
        """
        return await self._fenced(job, ended(JobState.FAILED, code, reason), "failed")

    async def retry(self, job: Job, reason: str, delay_s: float = 0.0) -> Job:
        """Give a job back after a failure that may heal; fail it when its tries are used up.

        Args:
            job: As it was claimed.
            reason: One sentence without patient data, for the history.
            delay_s: Seconds before it may be claimed again.

        Raises:
            LeaseLost: The job is no longer ours.
        """
        back = await self._fenced(job, waiting(self._clock(), delay_s), "retried", reason)
        failed = await self._exhaust(jobs.c.id == job.id, reason)
        return failed[0] if failed else back

    async def release(self, job: Job) -> Job:
        """Give a job back unharmed, as when this process is told to stop; the try is not counted.

        Raises:
            LeaseLost: The job is no longer ours.
        """
        change = waiting(self._clock(), 0.0) | {"tries": jobs.c.tries - 1}
        return await self._fenced(job, change, "released")

    # The reconciler.

    async def claimable(self, waiting_s: float, limit: int = 1000) -> tuple[Job, ...]:
        """Return jobs that could be claimed and have been so for ``waiting_s``, oldest first."""
        since = self._clock() - timedelta(seconds=waiting_s)
        where = and_(self._claimable(since), jobs.c.updated_at <= since)
        query = select(jobs).where(where).order_by(jobs.c.created_at).limit(limit)
        return tuple(to_job(row) for row in await self._table.fetch(query))

    async def exhaust(self) -> tuple[Job, ...]:
        """Fail every unowned job whose tries are used up; return those jobs."""
        return await self._exhaust(true())

    async def known(self, job_ids: Iterable[str]) -> dict[str, Job]:
        """Return those of the jobs that exist, by id."""
        rows = await self._table.fetch(select(jobs).where(jobs.c.id.in_(tuple(job_ids))))
        return {row.id: to_job(row) for row in rows}

    def _claimable(self, now: datetime) -> ColumnElement[bool]:
        return and_(unowned(now), jobs.c.tries < self._max_attempts)

    async def _exhaust(
        self, which: ColumnElement[bool], reason: str = "The worker that had it vanished."
    ) -> tuple[Job, ...]:
        nobody_has_it = or_(jobs.c.state == JobState.QUEUED.value, lapsed(self._clock()))
        where = and_(which, nobody_has_it, jobs.c.tries >= self._max_attempts)
        told = f"All {self._max_attempts} attempts failed; the last one: {reason}"
        change = ended(JobState.FAILED, RefusalCode.RETRIES_EXHAUSTED, told)
        return await self._table.change(where, change, "failed")

    async def _fenced(self, job: Job, change: dict[str, Any], event: str, detail: str = "") -> Job:
        changed = await self._table.change(held_by(job), change, event, detail)
        if not changed:
            raise LeaseLost(
                f"Job {job.id} is no longer in attempt {job.attempt}: drop what was made for it."
            )
        return changed[0]
