"""Repairs what a crash left behind, from the ledger, which is the truth.

ledger: unfinished, unowned ──not in the queue──▶ put again        (a lost or wiped queue)
ledger: unowned, tries used up ───────────────▶ dead               (a study that kills workers)
store: object of no job, or of a lost attempt ──▶ deleted          (a gateway or worker killed)
ledger: finished longer ago than the rules keep it ──▶ given up, objects deleted

What is young is left alone: it may still be on its way. A queue may learn of a job twice, which
does no harm: one claim wins.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from client.errors import ClientError
from client.faultpoints import Step, reach
from client.jobqueue.base import JobQueue
from client.jobs import Job, JobState
from client.ledger.ledger import RECONCILER, Ledger
from client.ledger.records import Claimable
from client.objectstore.objects import CHECKS, ObjectStore, StoredEntry, job_id_of
from client.telemetry.metrics import GatewayMetrics
from client.upkeep.retention import RetentionRules, apply_retention

__all__ = ("ReconcileReport", "Reconciler", "ReconcilerSettings")

_LOG = logging.getLogger(__name__)
_PAGE = 500
_JOBS_PAGE = 2000


@dataclass(frozen=True, slots=True)
class ReconcilerSettings:
    """How often it looks, and how old something must be before it counts as lost.

    Attributes:
        interval_s: Between two looks at the jobs.
        waiting_s: Longest way of a received job into the queue.
        sweep_interval_s: Between two looks at the stored objects.
        orphan_age_s: Objects younger than this may still be on their way into the ledger.
        retention: How long studies and results are kept.
    """

    interval_s: float = 5.0
    waiting_s: float = 10.0
    sweep_interval_s: float = 3600.0
    orphan_age_s: float = 86_400.0
    retention: RetentionRules = field(default_factory=RetentionRules)


@dataclass(frozen=True, slots=True)
class ReconcileReport:
    """What one look at the jobs changed."""

    requeued: tuple[str, ...]
    dead: tuple[str, ...]


class Reconciler:
    """Runs beside a gateway or a worker; several at once do no harm."""

    def __init__(
        self,
        ledger: Ledger,
        queue: JobQueue,
        store: ObjectStore,
        settings: ReconcilerSettings | None = None,
        metrics: GatewayMetrics | None = None,
    ) -> None:
        self._ledger = ledger
        self._queue = queue
        self._store = store
        self._settings = settings or ReconcilerSettings()
        self._metrics = metrics or GatewayMetrics()

    async def run(self) -> None:
        """Look again and again until cancelled; what is away now is met again later."""
        loop = asyncio.get_running_loop()
        next_sweep = loop.time()
        while True:
            try:
                await self.once()
                if loop.time() >= next_sweep:
                    next_sweep = loop.time() + self._settings.sweep_interval_s
                    await self.sweep()
            except ClientError as error:
                _LOG.warning("Reconciling waits: %s", error)
            await asyncio.sleep(self._settings.interval_s)

    async def once(self) -> ReconcileReport:
        """Let die what has no tries left and queue what the queue has lost.

        Raises:
            Transient: The ledger or the queue is away; what was done until then is done.
        """
        dead = await self._ledger.exhaust()
        for ended in dead:
            _LOG.warning("%s is dead: %s", ended.id, ended.reason)
        lost = await self._lost()
        for job in lost:
            await self._queue.put(job.id, job.priority)
            reach(Step.REQUEUED)
            if job.state is JobState.RECEIVED:
                await self._ledger.mark_queued(job.id, RECONCILER)
            _LOG.info("%s queued again in state %s, attempt %d", job.id, job.state, job.attempt)
        self._metrics.reconciled(len(lost), len(dead))
        return ReconcileReport(tuple(job.id for job in lost), tuple(job.id for job in dead))

    async def _lost(self) -> list[Claimable]:
        unowned: list[Claimable] = []
        while True:
            after = unowned[-1].id if unowned else ""
            page = await self._ledger.claimable(self._settings.waiting_s, after, _JOBS_PAGE)
            unowned += page
            if len(page) < _JOBS_PAGE:
                break
        if not unowned:
            return []
        queued = await self._queue.job_ids()
        return [job for job in unowned if job.id not in queued]

    async def sweep(self) -> int:
        """Delete stored objects whose time is over or that belong to no job; return how many.

        Raises:
            Transient: The ledger or the store is away.
        """
        now = datetime.now(UTC)
        swept = await apply_retention(self._settings.retention, self._ledger, self._store, now)
        swept += await self._store.sweep_partial(self._settings.orphan_age_s)
        before = now - timedelta(seconds=self._settings.orphan_age_s)
        for prefix in ("studies", "results", CHECKS):
            page: list[StoredEntry] = []
            async for entry in self._store.list(prefix):
                if entry.modified_at < before:
                    page.append(entry)
                if len(page) == _PAGE:
                    swept += await self._delete_orphans(page)
                    page = []
            swept += await self._delete_orphans(page)
        return swept

    async def _delete_orphans(self, entries: list[StoredEntry]) -> int:
        jobs = await self._ledger.known({job_id_of(entry.key) for entry in entries})
        orphans = [entry.key for entry in entries if not _is_wanted(entry.key, jobs)]
        for key in orphans:
            await self._store.delete(key)
            _LOG.info("%s deleted: no job has it", key)
        return len(orphans)


def _is_wanted(key: str, jobs: Mapping[str, Job]) -> bool:
    job = jobs.get(job_id_of(key))
    if job is None or job.withdrawn:
        return False
    return key in (job.object_key, job.result_key) or not job.finished
