"""The ledger of jobs: the one truth about who owns a study and what became of it.

    received ──▶ queued ──claim──▶ running ──finish │ reject │ fail──▶ done │ rejected │ failed
                   ▲                 │  └──────retry, tries used up──▶ dead
                   ├──retry, release─┘
                   └──retry_by_hand── dead │ failed │ rejected         (``TRANSITIONS`` has it all)

Every write of a worker is fenced: it counts only while the job is running under the attempt
number that the worker claimed. Every change is also an event of the audit trail, in the same
transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, not_
from sqlalchemy.exc import IntegrityError

from client.audittrail import AuditEntry, AuditEvent
from client.errors import Conflict, LeaseLost, RefusalCode, WrongState
from client.jobs import Actor, Job, JobState
from client.ledger.enquiries import Enquiries
from client.ledger.jobtable import Change
from client.ledger.recorder import Recorder
from client.ledger.records import AttemptCost, JobResult, NewJob, ServedModel
from client.ledger.schema import jobs
from client.ledger.service import answers_for, served_at_claim, served_still
from client.ledger.transitions import (
    FINISHED,
    HAS_STUDY,
    UNFINISHED,
    WITHDRAWN,
    begun_again,
    claimed,
    ended,
    held_by,
    result_columns,
    unowned,
    waiting,
    withdrawn,
    without_study,
)

__all__ = ("GATEWAY", "RECONCILER", "RETENTION", "Ledger")

GATEWAY = Actor("gateway")
RECONCILER = Actor("reconciler")
RETENTION = Actor("retention")
_SUBMIT_ROUNDS = 5
_ERASED = "The patient was erased; nothing of the study or its result can be read any more."
_EXPIRED = "The time for which studies and results are kept is over."


class Ledger(Enquiries):
    """Jobs and their audit trail in a SQL database.

    Args:
        url: SQLAlchemy URL, SQLite (aiosqlite) or PostgreSQL (psycopg).
        audit_key: 32 secret bytes that make the audit trail; the same for all processes.
        max_attempts: Tries that count before a job is dead.
        clock: Says what time it is; all processes of one ledger need nearly the same time.

    Every method raises Transient when the database is away. Cancelling one never cuts a
    transaction in two.
    """

    def __init__(
        self,
        url: str,
        audit_key: bytes,
        *,
        max_attempts: int = 10,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(url, audit_key, max_attempts=max_attempts, clock=clock)
        self._recorder = Recorder(self._table, clock)
        self._served: dict[str, tuple[set[ServedModel], datetime]] = {}

    # Senders, through the gateway.

    async def submit(self, new: NewJob, actor: Actor = GATEWAY) -> tuple[Job, bool]:
        """Enter a stored study, once for each upload id, and unless an earlier job answers for it.

        Args:
            new: The study.
            actor: Who sent it.

        Returns:
            The job, and whether it is new; an earlier one is returned as it is.

        Raises:
            Conflict: The upload id was used for other content.
        """
        for _ in range(_SUBMIT_ROUNDS):
            try:
                return await self._table.insert(self._entered(new), actor), True
            except IntegrityError:
                earlier = await self.find_upload(new.tenant, new.upload_id, new.content_sha256)
                earlier = earlier or await self._answering(new)
            if earlier is not None:
                return earlier, False
        raise Conflict(f"Job id {new.id} is taken.")

    async def _answering(self, new: NewJob) -> Job | None:
        """Return the job that answers for the same content; one that does not makes way."""
        job = await self._holder(new.tenant, new.content_key)
        if job is None:  # it ended between the two looks
            return None
        if answers_for(job, new.priority, await self.models_in_service()):
            return job
        outdated = and_(jobs.c.id == job.id, jobs.c.content_key == new.content_key)
        await self._table.touch(outdated, {"content_key": None})
        return None

    def _entered(self, new: NewJob) -> dict[str, Any]:
        now = self._clock()
        return {
            "id": new.id,
            "tenant": new.tenant,
            "upload_id": new.upload_id,
            "content_sha256": new.content_sha256,
            "content_key": new.content_key or None,
            "patient": new.patient,
            "subject_key_id": new.subject_key_id,
            "key_id": new.key_id,
            "priority": new.priority.value,
            "model": new.model,
            "state": JobState.RECEIVED.value,
            "object_key": new.stored.key,
            "object_bytes": new.stored.length,
            "object_sha256": new.stored.sha256,
            "header": new.header,
            "trace": new.trace,
            "created_at": now,
            "updated_at": now,
            "not_before": now,
        }

    async def mark_queued(self, job_id: str, actor: Actor = GATEWAY) -> None:
        """Note that the queue has a received job; a worker may have been faster."""
        received = and_(jobs.c.id == job_id, jobs.c.state == JobState.RECEIVED.value)
        change = Change({"state": JobState.QUEUED.value}, "job.queued", actor)
        await self._table.change(received, change)

    async def cancel(self, tenant: str, job_id: str, actor: Actor = GATEWAY) -> Job:
        """Cancel a job unless it is finished; return it as it is then.

        A worker that is busy with it loses its lease.

        Raises:
            NotFound: No such job, or another tenant's.
        """
        where = and_(jobs.c.id == job_id, jobs.c.tenant == tenant, UNFINISHED)
        change = Change(ended(JobState.CANCELLED), "job.cancelled", actor)
        cancelled = await self._table.change(where, change)
        return cancelled[0] if cancelled else await self.get(job_id, tenant)

    async def retry_by_hand(self, tenant: str, job_id: str, actor: Actor) -> Job:
        """Queue a dead, failed or rejected job again, with all its tries; tell the queue after.

        Raises:
            NotFound: No such job, or another tenant's.
            WrongState: It is in another state, or its study is gone for good.
        """
        ended_badly = and_(jobs.c.id == job_id, jobs.c.tenant == tenant, FINISHED, HAS_STUDY)
        change = Change(begun_again(self._clock()), "job.retried_by_hand", actor)
        again = await self._table.change(ended_badly, change)
        if again:
            return again[0]
        job = await self.get(job_id, tenant)
        gone = job.withdrawn or not job.object_key
        why = "its study is gone" if gone else f"its state is {job.state}"
        raise WrongState(
            f"Expected job {job_id} to be dead, failed or rejected with its study still there; "
            f"{why}."
        )

    # Workers.

    async def serve(
        self, worker: str, models: Collection[ServedModel], lease_s: float = 60.0
    ) -> None:
        """Say which models a worker serves now; cheap when nothing changed, so say it often.

        Until a change is told, results of the models before it are answered again.

        Args:
            worker: The name that it claims jobs under.
            models: All of them; none when it stops.
            lease_s: How long this counts if it is not said again.
        """
        now = self._clock()
        known = self._served.get(worker)
        if known is not None and known[0] == set(models) and now < known[1]:
            return
        self._served.pop(worker, None)
        await self._table.tell_served(worker, models, now, now + timedelta(seconds=lease_s))
        self._served[worker] = (set(models), now + timedelta(seconds=lease_s / 3))

    async def claim(self, job_id: str, owner: str, lease_s: float) -> Job:
        """Take a job that waits, or whose lease has run out, under a new attempt number.

        Args:
            job_id: The job that the queue named.
            owner: Who claims, for the history.
            lease_s: Seconds until others may take it over without a heartbeat.

        Raises:
            LeaseLost: It is finished, not due yet, or in other hands: drop the queue's entry. A
                job whose tries are used up dies on the way.
            NotFound: No such job.
        """
        now = self._clock()
        due = and_(unowned(now), jobs.c.tries < self._max_attempts)
        values = claimed(owner, now + timedelta(seconds=lease_s))
        values |= {"made_with": served_at_claim(owner, now)}
        change = Change(values, "job.claimed")
        taken = await self._table.change(and_(jobs.c.id == job_id, due), change)
        if not taken:
            await self._exhaust(jobs.c.id == job_id, Actor(f"worker:{owner}"))
            job = await self.get(job_id)
            raise LeaseLost(f"Job {job_id} cannot be claimed now: its state is {job.state}.")
        return taken[0]

    async def heartbeat(self, job: Job, stage: str, progress: float, lease_s: float) -> None:
        """Keep a claimed job for longer, and say how far it is.

        Raises:
            LeaseLost: It is no longer ours.
        """
        now = self._clock()
        values = {
            "stage": stage,
            "progress": progress,
            "updated_at": now,
            "lease_expires_at": now + timedelta(seconds=lease_s),
        }
        if not await self._table.touch(held_by(job), values):
            raise _lost(job)

    async def finish(self, job: Job, result: JobResult, costs: Sequence[AttemptCost] = ()) -> Job:
        """Record a stored result.

        Args:
            job: As it was claimed.
            result: Where it lies.
            costs: What the attempt took, one for each model; entered in the same transaction, and
                only if the job is still ours. So it is for every end of an attempt.

        Raises:
            LeaseLost: The job is no longer ours; delete the result.
        """
        values = ended(JobState.DONE) | result_columns(result)
        values |= {"progress": 1.0, "made_with": served_still(self._clock())}
        return await self._fenced(job, Change(values, "job.finished", costs=costs))

    async def reject(
        self,
        job: Job,
        code: RefusalCode,
        reason: str,
        result: JobResult | None = None,
        costs: Sequence[AttemptCost] = (),
    ) -> Job:
        """Record that the study cannot be processed as it is.

        Args:
            job: As it was claimed.
            code: The stable reason.
            reason: One sentence without patient data.
            result: An encrypted report for the sender, if there is one.
            costs: See ``finish``.

        Raises:
            LeaseLost: The job is no longer ours.
        """
        values = ended(JobState.REJECTED, code, reason)
        if result is not None:
            values |= result_columns(result)
        return await self._fenced(job, Change(values, "job.rejected", costs=costs))

    async def fail(
        self, job: Job, code: RefusalCode, reason: str, costs: Sequence[AttemptCost] = ()
    ) -> Job:
        """Record a failure that no further attempt would mend; ``costs`` as for ``finish``.

        Raises:
            LeaseLost: The job is no longer ours.
        """
        values = ended(JobState.FAILED, code, reason)
        return await self._fenced(job, Change(values, "job.failed", costs=costs))

    async def retry(
        self, job: Job, reason: str, delay_s: float = 0.0, costs: Sequence[AttemptCost] = ()
    ) -> Job:
        """Give a job back after a failure that may heal; it is dead when its tries are used up.

        Args:
            job: As it was claimed.
            reason: One sentence without patient data, for the history.
            delay_s: Seconds before it may be claimed again.
            costs: See ``finish``.

        Raises:
            LeaseLost: The job is no longer ours.
        """
        used_up = and_(held_by(job), jobs.c.tries >= self._max_attempts)
        dead = await self._table.change(used_up, replace(self._death(reason), costs=costs))
        if dead:
            return dead[0]
        values = waiting(self._clock(), delay_s)
        return await self._fenced(job, Change(values, "job.retried", detail=reason, costs=costs))

    async def release(self, job: Job, costs: Sequence[AttemptCost] = ()) -> Job:
        """Give a job back unharmed, as when this process is told to stop; the try is not counted.

        ``costs`` as for ``finish``.

        Raises:
            LeaseLost: The job is no longer ours.
        """
        values = waiting(self._clock(), 0.0) | {"tries": jobs.c.tries - 1}
        return await self._fenced(job, Change(values, "job.released", costs=costs))

    async def exhaust(self) -> tuple[Job, ...]:
        """Let every unowned job die whose tries are used up; return those jobs."""
        return await self._exhaust(UNFINISHED, RECONCILER)

    # Erasure, retention, key rotation.

    async def erase(
        self, tenant: str, job_ids: Sequence[str], actor: Actor, reason: str
    ) -> tuple[int, AuditEvent]:
        """Enter that studies and results were made unreadable for good, in one transaction.

        Unfinished jobs fail; the others keep their state. All of them get the code ERASED.

        Args:
            tenant: Whose jobs.
            job_ids: Which; those that are erased already are left as they are.
            actor: Who erased.
            reason: Why, without patient data.

        Returns:
            How many jobs were erased now, and the event ``patient.erased`` that proves it.
        """
        theirs = and_(
            jobs.c.tenant == tenant,
            jobs.c.id.in_(tuple(job_ids)),
            jobs.c.code != RefusalCode.ERASED.value,
        )
        stopped = ended(JobState.FAILED, RefusalCode.ERASED, _ERASED)
        steps = (
            (and_(theirs, UNFINISHED), Change(stopped, "job.erased", actor)),
            (
                and_(theirs, FINISHED),
                Change(withdrawn(RefusalCode.ERASED, _ERASED), "job.erased", actor),
            ),
        )
        entry = AuditEntry("patient.erased", code=RefusalCode.ERASED.value, detail=reason)
        erased, event = await self._table.change_together(steps, (tenant, actor, entry))
        return len(erased), event

    async def expire(self, job_ids: Sequence[str], actor: Actor = RETENTION) -> tuple[Job, ...]:
        """Give up study and result of finished jobs; return the jobs whose objects may go now."""
        theirs = and_(jobs.c.id.in_(tuple(job_ids)), FINISHED, not_(WITHDRAWN))
        change = Change(withdrawn(RefusalCode.EXPIRED, _EXPIRED), "job.expired", actor)
        return await self._table.change(theirs, change)

    async def give_up_studies(
        self, job_ids: Sequence[str], actor: Actor = RETENTION
    ) -> tuple[Job, ...]:
        """Give up the studies of finished jobs, not their results; return the jobs as they are."""
        theirs = and_(jobs.c.id.in_(tuple(job_ids)), FINISHED, HAS_STUDY)
        return await self._table.change(theirs, Change(without_study(), "job.study_expired", actor))

    async def set_rewrapped(
        self, job_id: str, old_key_id: str, new_key_id: str, rewrapped_dek: bytes
    ) -> bool:
        """Note that a study's key is now encrypted for another worker key.

        Returns:
            False when the job has no key of the old one any more.
        """
        where = and_(jobs.c.id == job_id, jobs.c.key_id == old_key_id)
        return await self._table.touch(
            where, {"key_id": new_key_id, "rewrapped_dek": rewrapped_dek}
        )

    # The audit trail.

    async def record(self, tenant: str, actor: Actor, entry: AuditEntry) -> AuditEvent:
        """Record an event; it is durable when this returns. Concurrent calls share a transaction.

        Args:
            tenant: Whose chain; ``SYSTEM_TENANT`` for what belongs to no tenant.
            actor: Who did it.
            entry: What, without patient data.

        Raises:
            Busy: Too many events are waiting to be written.
        """
        return await self._recorder.record(tenant, actor, entry)

    async def _exhaust(self, which: ColumnElement[bool], actor: Actor) -> tuple[Job, ...]:
        used_up = and_(which, unowned(self._clock()), jobs.c.tries >= self._max_attempts)
        return await self._table.change(
            used_up, self._death("The worker that had it vanished.", actor)
        )

    def _death(self, reason: str, actor: Actor | None = None) -> Change:
        told = f"All {self._max_attempts} attempts failed; the last one: {reason}"
        values = ended(JobState.DEAD, RefusalCode.RETRIES_EXHAUSTED, told)
        return Change(values, "job.dead", actor)

    async def _fenced(self, job: Job, change: Change) -> Job:
        changed = await self._table.change(held_by(job), change)
        if not changed:
            raise _lost(job)
        return changed[0]


def _lost(job: Job) -> LeaseLost:
    return LeaseLost(
        f"Job {job.id} is no longer in attempt {job.attempt}: drop what was made for it."
    )
