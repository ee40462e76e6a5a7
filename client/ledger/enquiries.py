"""What can be asked of the ledger: jobs, by whom and for what they were sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

from sqlalchemy import ColumnElement, and_, func, not_, or_, select, text, union_all

from client.audittrail import AuditEvent
from client.errors import Conflict, NotFound
from client.jobs import Job, JobState, Priority
from client.ledger.audit import AuditKey, to_event
from client.ledger.jobtable import JobTable
from client.ledger.records import Backlog, Claimable, JobPage, WorkCount
from client.ledger.schema import events, jobs, to_job
from client.ledger.service import answers_for, in_service
from client.ledger.spent import JobSpending, costs_of, events_of, job_spending, spending_jobs
from client.ledger.transitions import (
    FINISHED,
    HAS_STUDY,
    UNFINISHED,
    WITHDRAWN,
    lost,
    unowned,
)
from client.ledger.verification import ChainReport, verify_chain, verify_chains
from client.objectstore.objects import StoredObject

__all__ = ("Enquiries",)

_PAGE = 500


class Enquiries:
    """The reading half of ``Ledger``, with the same arguments."""

    def __init__(
        self,
        url: str,
        audit_key: bytes,
        *,
        max_attempts: int = 10,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._key = AuditKey(audit_key)
        self._table = JobTable(url, self._key, clock)
        self._max_attempts = max_attempts
        self._clock = clock

    async def __aenter__(self) -> Self:
        """Connect, and bring the tables up to date.

        Raises:
            ConfigurationError: The database is of a newer version, or is not a ledger's.
        """
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
        found = await self._jobs(where)
        if not found:
            raise NotFound(f"No job {job_id}.")
        return found[0]

    async def known(self, job_ids: Iterable[str]) -> dict[str, Job]:
        """Return those of the jobs that exist, by id."""
        return {job.id: job for job in await self._jobs(jobs.c.id.in_(tuple(job_ids)))}

    async def list_jobs(
        self,
        tenant: str,
        *,
        state: JobState | None = None,
        patient: str = "",
        page_size: int = 50,
        page_token: str = "",
    ) -> JobPage:
        """Return a page of a tenant's jobs, newest first.

        Args:
            tenant: Whose.
            state: Only those in this state; None for all.
            patient: Only those of this pseudonym; "" for all.
            page_size: At most this many.
            page_token: ``next_token`` of the page before; "" for the first.

        Raises:
            NotFound: The token is not one of ours.
        """
        query = select(jobs).where(jobs.c.tenant == tenant)
        if state is not None:
            query = query.where(jobs.c.state == state.value)
        if patient:
            query = query.where(jobs.c.patient == patient)
        if page_token:
            last = await self.get(page_token, tenant)
            same_moment = and_(jobs.c.created_at == last.created_at, jobs.c.id < last.id)
            query = query.where(or_(jobs.c.created_at < last.created_at, same_moment))
        query = query.order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(page_size + 1)
        found = [to_job(row) for row in await self._table.fetch(query)]
        more = len(found) > page_size
        return JobPage(tuple(found[:page_size]), found[page_size - 1].id if more else "")

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

    async def find_content(
        self, tenant: str, content_key: str, priority: Priority = Priority.ROUTINE
    ) -> Job | None:
        """Return the job that answers for the same content; None when there is none.

        Args:
            tenant: Whose.
            content_key: See ``NewJob.content_key``.
            priority: Of the new submission; see ``client.ledger.service.answers_for``.
        """
        job = await self._holder(tenant, content_key)
        if job is None or not answers_for(job, priority, await self.models_in_service()):
            return None
        return job

    async def models_in_service(self) -> frozenset[str]:
        """Return the fingerprint of each different set of models that living workers serve."""
        rows = await self._table.fetch(in_service(self._clock()))
        return frozenset(row.fingerprint for row in rows)

    async def _holder(self, tenant: str, content_key: str) -> Job | None:
        found = await self._jobs(and_(jobs.c.tenant == tenant, jobs.c.content_key == content_key))
        return found[0] if found else None

    async def job_of_upload(self, tenant: str, upload_id: str) -> Job | None:
        """Return the job of an upload, None when there is none."""
        found = await self._jobs(and_(jobs.c.tenant == tenant, jobs.c.upload_id == upload_id))
        return found[0] if found else None

    async def jobs_of_patient(self, tenant: str, patient: str) -> tuple[Job, ...]:
        """Return every job of a pseudonym, erased ones too."""
        return await self._jobs(and_(jobs.c.tenant == tenant, jobs.c.patient == patient))

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

    async def work(self, states: Iterable[JobState]) -> tuple[WorkCount, ...]:
        """Return how many jobs are in these states, of all tenants; what there is none of is left.

        Unfinished states are few rows, found by an index; the others are most of the table.
        """
        number, oldest = func.count().label("number"), func.min(jobs.c.created_at).label("oldest")
        query = select(jobs.c.state, jobs.c.priority, number, oldest)
        query = query.where(jobs.c.state.in_(sorted(state.value for state in states)))
        rows = await self._table.fetch(query.group_by(jobs.c.state, jobs.c.priority))
        return tuple(
            WorkCount(JobState(row.state), Priority(row.priority), row.number, row.oldest)
            for row in rows
        )

    async def claimable(
        self, waiting_s: float, after: str = "", limit: int = 1000
    ) -> tuple[Claimable, ...]:
        """Return jobs that a worker could claim now and that a queue should know, by id.

        Args:
            waiting_s: Jobs received less than so long ago are still on their way to the queue.
            after: Only ids after this one.
            limit: At most this many.
        """
        now = self._clock()
        due = and_(unowned(now), jobs.c.tries < self._max_attempts)
        settled = lost(now - timedelta(seconds=waiting_s))
        query = select(jobs.c.id, jobs.c.priority, jobs.c.state, jobs.c.attempt)
        query = query.where(due, settled, jobs.c.id > after).order_by(jobs.c.id).limit(limit)
        return tuple(
            Claimable(row.id, Priority(row.priority), JobState(row.state), row.attempt)
            for row in await self._table.fetch(query)
        )

    # Cost.

    async def spending(self, since: datetime, until: datetime) -> AsyncIterator[JobSpending]:
        """Yield what is known of each job that may have cost something in a period, by id.

        Args:
            since: Begin of the period.
            until: Its end.
        """
        after = ""
        while page := await self._table.fetch(spending_jobs(since, until, after, _PAGE)):
            ids = [row.id for row in page]
            spent = await self._table.fetch(costs_of(ids))
            told = await self._table.fetch(events_of(ids))
            for one in job_spending(page, spent, told):
                yield one
            after = ids[-1]

    # Care: retention, key rotation, backup.

    async def expirable(self, finished_before: datetime, limit: int = 500) -> tuple[Job, ...]:
        """Return jobs that finished before a moment and still have study or result."""
        old = jobs.c.updated_at < finished_before
        return await self._jobs(and_(FINISHED, not_(WITHDRAWN), old), limit)

    async def with_study(self, finished_before: datetime, limit: int = 500) -> tuple[Job, ...]:
        """Return jobs that finished before a moment and still have their study."""
        old = jobs.c.updated_at < finished_before
        return await self._jobs(and_(FINISHED, HAS_STUDY, old), limit)

    async def to_rewrap(
        self, old_key_id: str, after: str = "", limit: int = 100
    ) -> tuple[Job, ...]:
        """Return jobs whose study is encrypted for this worker key, by id."""
        theirs = and_(jobs.c.key_id == old_key_id, not_(WITHDRAWN), jobs.c.id > after)
        return await self._jobs(theirs, limit)

    async def stored(self, after: str = "", limit: int = 1000) -> tuple[StoredObject, ...]:
        """Return the objects that jobs have, in the order of their keys.

        Args:
            after: Only keys after this one.
            limit: At most this many.
        """
        studies = select(
            jobs.c.object_key.label("key"),
            jobs.c.object_bytes.label("length"),
            jobs.c.object_sha256.label("sha256"),
        ).where(not_(WITHDRAWN), jobs.c.object_key > after)
        results = select(jobs.c.result_key, jobs.c.result_bytes, jobs.c.result_sha256).where(
            not_(WITHDRAWN), jobs.c.result_key > after, jobs.c.result_key != ""
        )
        both = union_all(studies, results).subquery()
        rows = await self._table.fetch(select(both).order_by(both.c.key).limit(limit))
        return tuple(StoredObject(row.key, row.length, row.sha256) for row in rows)

    # The audit trail.

    async def events(self, job_id: str) -> tuple[AuditEvent, ...]:
        """Return what happened to a job, oldest first."""
        query = select(events).where(events.c.job_id == job_id).order_by(events.c.number)
        return tuple(map(to_event, await self._table.fetch(query)))

    async def audit_events(
        self, tenant: str, after: int = 0, limit: int = 100
    ) -> tuple[AuditEvent, ...]:
        """Return a tenant's audit trail, oldest first.

        Args:
            tenant: Whose.
            after: Only events after this number.
            limit: At most this many.
        """
        query = select(events).where(events.c.tenant == tenant, events.c.number > after)
        rows = await self._table.fetch(query.order_by(events.c.number).limit(limit))
        return tuple(map(to_event, rows))

    async def verify_chains(self, tenant: str | None = None) -> tuple[ChainReport, ...]:
        """Recompute the audit trail; one report for each chain.

        Args:
            tenant: Whose; None for all, the system's own included.
        """
        if tenant is not None:
            return (await verify_chain(self._table, self._key, tenant),)
        return await verify_chains(self._table, self._key)

    async def _jobs(self, where: ColumnElement[bool], limit: int | None = None) -> tuple[Job, ...]:
        query = select(jobs).where(where).order_by(jobs.c.id).limit(limit)
        return tuple(to_job(row) for row in await self._table.fetch(query))
