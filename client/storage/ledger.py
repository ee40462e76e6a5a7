"""The ledger of jobs: the one truth about who owns a study and what became of it.

    queued ──claim──▶ running ──finish │ reject │ fail──▶ done │ rejected │ failed
       ▲  └──cancel──▶ cancelled ◀──cancel──┘  │
       └──────────retry, release───────────────┘

Every write of a worker is fenced: it counts only while the job is running under the attempt
number that the worker claimed. Every change is also a row in ``job_events``, never altered.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from sqlalchemy import ColumnElement, Row, Select, and_, func, or_, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from client.errors import Conflict, LeaseLost, NotFound, RefusalCode
from client.jobs import Job, JobState
from client.storage.database import create_tables, open_database, reading, translated
from client.storage.records import Backlog, JobEvent, JobPage, JobResult, NewJob
from client.storage.schema import job_events, jobs, to_job

__all__ = ("Ledger",)

_UNFINISHED = jobs.c.state.in_((JobState.QUEUED.value, JobState.RUNNING.value))


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
        self._engine = open_database(url)
        self._reader = reading(self._engine)
        self._max_attempts = max_attempts
        self._clock = clock

    async def __aenter__(self) -> Self:
        """Connect, and create the tables that are missing."""
        try:
            with translated():
                await create_tables(self._engine)
        except BaseException:
            await self._engine.dispose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every connection."""
        await self._engine.dispose()

    async def ping(self) -> None:
        """Ask the database for a sign of life."""
        await self._fetch(select(text("1")))

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
            async with self._writing() as connection:
                inserted = await connection.execute(jobs.insert().values(values).returning(jobs))
                row = inserted.one()
                await self._record(connection, row, "submitted")
            return to_job(row), True
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
        rows = await self._fetch(select(jobs).where(where))
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
        rows = await self._fetch(select(jobs).where(where))
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
        found = [to_job(row) for row in await self._fetch(query)]
        more = len(found) > page_size
        return JobPage(tuple(found[:page_size]), found[page_size - 1].id if more else "")

    async def cancel(self, tenant: str, job_id: str) -> Job:
        """Cancel a job unless it is finished; return it as it is then.

        A worker that is busy with it loses its lease.

        Raises:
            NotFound: No such job, or another tenant's.
        """
        where = and_(jobs.c.id == job_id, jobs.c.tenant == tenant, _UNFINISHED)
        change = self._ended(JobState.CANCELLED)
        cancelled = await self._change(where, change, "cancelled")
        return cancelled[0] if cancelled else await self.get(job_id, tenant)

    async def backlog(self) -> Backlog:
        """Return how much unfinished work there is, of all tenants."""
        total = func.coalesce(func.sum(jobs.c.object_bytes), 0)
        query = select(func.count().label("waiting"), total.label("held"))
        row = (await self._fetch(query.where(_UNFINISHED)))[0]
        return Backlog(row.waiting, int(row.held))

    async def counts(self) -> dict[JobState, int]:
        """Return the number of jobs in each state that occurs."""
        query = select(jobs.c.state, func.count().label("number")).group_by(jobs.c.state)
        return {JobState(row.state): row.number for row in await self._fetch(query)}

    async def events(self, job_id: str) -> tuple[JobEvent, ...]:
        """Return a job's history, oldest first."""
        query = select(job_events).where(job_events.c.job_id == job_id)
        rows = await self._fetch(query.order_by(job_events.c.number))
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
        change = {
            "state": JobState.RUNNING.value,
            "attempt": jobs.c.attempt + 1,
            "tries": jobs.c.tries + 1,
            "owner": owner,
            "stage": "",
            "progress": 0.0,
            "lease_expires_at": now + timedelta(seconds=lease_s),
        }
        where = and_(jobs.c.id == job_id, self._claimable(now))
        claimed = await self._change(where, change, "claimed", owner)
        if not claimed:
            await self._exhaust(jobs.c.id == job_id)
            job = await self.get(job_id)
            raise LeaseLost(f"Job {job_id} cannot be claimed now: its state is {job.state}.")
        return claimed[0]

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
        change = self._ended(JobState.DONE) | _result_columns(result) | {"progress": 1.0}
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
        change = self._ended(JobState.REJECTED, code, reason)
        if result is not None:
            change |= _result_columns(result)
        return await self._fenced(job, change, "rejected")

    async def fail(self, job: Job, code: RefusalCode, reason: str) -> Job:
        """Record a failure that no further attempt would mend.

        Raises:
            LeaseLost: The job is no longer ours.
        """
        return await self._fenced(job, self._ended(JobState.FAILED, code, reason), "failed")

    async def retry(self, job: Job, reason: str, delay_s: float = 0.0) -> Job:
        """Give a job back after a failure that may heal; fail it when its tries are used up.

        Args:
            job: As it was claimed.
            reason: One sentence without patient data, for the history.
            delay_s: Seconds before it may be claimed again.

        Raises:
            LeaseLost: The job is no longer ours.
        """
        back = await self._fenced(job, self._waiting(delay_s), "retried", reason)
        failed = await self._exhaust(jobs.c.id == job.id, reason)
        return failed[0] if failed else back

    async def release(self, job: Job) -> Job:
        """Give a job back unharmed, as when this process is told to stop; the try is not counted.

        Raises:
            LeaseLost: The job is no longer ours.
        """
        change = self._waiting(0.0) | {"tries": jobs.c.tries - 1}
        return await self._fenced(job, change, "released")

    # The reconciler.

    async def claimable(self, waiting_s: float, limit: int = 1000) -> tuple[Job, ...]:
        """Return jobs that could be claimed and have been so for ``waiting_s``, oldest first."""
        since = self._clock() - timedelta(seconds=waiting_s)
        where = and_(self._claimable(since), jobs.c.updated_at <= since)
        query = select(jobs).where(where).order_by(jobs.c.created_at).limit(limit)
        return tuple(to_job(row) for row in await self._fetch(query))

    async def exhaust(self) -> tuple[Job, ...]:
        """Fail every unowned job whose tries are used up; return those jobs."""
        return await self._exhaust(None)

    async def known(self, job_ids: Iterable[str]) -> dict[str, Job]:
        """Return those of the jobs that exist, by id."""
        rows = await self._fetch(select(jobs).where(jobs.c.id.in_(tuple(job_ids))))
        return {row.id: to_job(row) for row in rows}

    def _claimable(self, now: datetime) -> ColumnElement[bool]:
        return and_(_unowned(now), jobs.c.tries < self._max_attempts)

    async def _exhaust(
        self, which: ColumnElement[bool] | None, reason: str = "The worker that had it vanished."
    ) -> tuple[Job, ...]:
        where = and_(
            or_(jobs.c.state == JobState.QUEUED.value, _lapsed(self._clock())),
            jobs.c.tries >= self._max_attempts,
        )
        if which is not None:
            where = and_(which, where)
        told = f"All {self._max_attempts} attempts failed; the last one: {reason}"
        change = self._ended(JobState.FAILED, RefusalCode.RETRIES_EXHAUSTED, told)
        return await self._change(where, change, "failed")

    def _waiting(self, delay_s: float) -> dict[str, Any]:
        return {
            "state": JobState.QUEUED.value,
            "stage": "",
            "progress": 0.0,
            "owner": "",
            "lease_expires_at": None,
            "not_before": self._clock() + timedelta(seconds=delay_s),
        }

    def _ended(
        self, state: JobState, code: RefusalCode | str = "", reason: str = ""
    ) -> dict[str, Any]:
        return {
            "state": state.value,
            "stage": "",
            "code": str(code),
            "reason": reason,
            "lease_expires_at": None,
        }

    async def _fenced(self, job: Job, change: dict[str, Any], event: str, detail: str = "") -> Job:
        where = and_(
            jobs.c.id == job.id,
            jobs.c.attempt == job.attempt,
            jobs.c.state == JobState.RUNNING.value,
        )
        changed = await self._change(where, change, event, detail)
        if not changed:
            raise LeaseLost(
                f"Job {job.id} is no longer in attempt {job.attempt}: drop what was made for it."
            )
        return changed[0]

    async def _change(
        self, where: ColumnElement[bool], change: dict[str, Any], event: str, detail: str = ""
    ) -> tuple[Job, ...]:
        statement = update(jobs).where(where).values(change | {"updated_at": self._clock()})
        async with self._writing() as connection:
            rows = (await connection.execute(statement.returning(jobs))).all()
            for row in rows:
                if event:
                    await self._record(connection, row, event, detail)
        return tuple(to_job(row) for row in rows)

    async def _record(
        self, connection: AsyncConnection, row: Row[Any], event: str, detail: str = ""
    ) -> None:
        entry = {
            "job_id": row.id,
            "at": row.updated_at,
            "event": event,
            "state": row.state,
            "attempt": row.attempt,
            "code": row.code,
            "detail": detail or row.reason,
        }
        await connection.execute(job_events.insert().values(entry))

    async def _fetch(self, query: Select[Any]) -> list[Row[Any]]:
        with translated():
            async with self._reader.connect() as connection:
                return list((await connection.execute(query)).all())

    @contextlib.asynccontextmanager
    async def _writing(self) -> AsyncIterator[AsyncConnection]:
        with translated():
            async with self._engine.begin() as connection:
                yield connection


def _unowned(now: datetime) -> ColumnElement[bool]:
    return or_(
        and_(jobs.c.state == JobState.QUEUED.value, jobs.c.not_before <= now),
        _lapsed(now),
    )


def _lapsed(now: datetime) -> ColumnElement[bool]:
    return and_(jobs.c.state == JobState.RUNNING.value, jobs.c.lease_expires_at <= now)


def _result_columns(result: JobResult) -> dict[str, Any]:
    return {
        "result_key": result.stored.key,
        "result_bytes": result.stored.length,
        "result_sha256": result.stored.sha256,
        "result_header": result.header,
    }
