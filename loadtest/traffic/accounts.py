"""Compares what the senders were told with what the system holds: nothing lost, nothing twice.

acknowledged studies ──every job ended?──▶ lost;  the stack's own ledger ──▶ repeated
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from client.cli.sending import connect
from client.crypto.keydirectory import KeyDirectory
from client.errors import NotFound
from client.jobs import Job, JobState
from client.ledger.ledger import Ledger
from client.settings import Settings
from loadtest.traffic.journal import Study

__all__ = ("Accounts", "count_repeated", "settle")

_LOOK_S = 0.5
_PAGE = 500
_FINISHED = "job.finished"


@dataclass(frozen=True)
class Accounts:
    """What came of the comparison.

    Attributes:
        studies: With those that were lost marked so.
        acknowledged: How many were acknowledged.
        ended: How many of these have ended.
        repeated: Jobs or results beyond one for each study; None: the ledger is not ours to read.
        settled_s: Seconds from the end of sending until nothing was open any more.
    """

    studies: tuple[Study, ...]
    acknowledged: int
    ended: int
    repeated: int | None
    settled_s: float

    @property
    def lost(self) -> int:
        """Acknowledged studies that have not ended, or are not there."""
        return self.acknowledged - self.ended


async def settle(settings: Settings, studies: Sequence[Study], give_up_s: float) -> Accounts:
    """Wait until every acknowledged study has ended, or no longer.

    Args:
        settings: How to call the gateway.
        studies: What the journals say.
        give_up_s: Longest wait.
    """
    began = time.monotonic()
    promised = [one for one in studies if one.job_id]
    jobs = await _followed(settings, {one.job_id for one in promised}, began + give_up_s)
    ended = {job_id for job_id, job in jobs.items() if job.finished}
    return Accounts(
        studies=tuple(_judged(one, jobs, ended) for one in studies),
        acknowledged=len(promised),
        ended=sum(one.job_id in ended for one in promised),
        repeated=None,
        settled_s=round(time.monotonic() - began, 1),
    )


async def _followed(settings: Settings, open_ids: set[str], deadline: float) -> dict[str, Job]:
    """The jobs as they are when all have ended, or at the deadline; without those not there."""
    jobs: dict[str, Job] = {}
    if not open_ids:
        return jobs
    async with connect(settings) as client:
        while open_ids and time.monotonic() < deadline:
            for job_id in sorted(open_ids):
                try:
                    jobs[job_id] = await client.get(job_id)
                except NotFound:
                    open_ids.discard(job_id)
            open_ids -= {job_id for job_id, job in jobs.items() if job.finished}
            if open_ids:
                await asyncio.sleep(_LOOK_S)
    return jobs


def _judged(study: Study, jobs: dict[str, Job], ended: set[str]) -> Study:
    if study.job_id and (
        study.job_id not in ended or jobs[study.job_id].upload_id != study.upload_id
    ):
        return replace(study, outcome="lost", code="")
    if not study.outcome:
        return replace(
            study, outcome="error", code="NOT_SENT" if study.sent_s is None else "CUT_OFF"
        )
    return study


async def count_repeated(settings: Settings, studies: Iterable[Study], since: datetime) -> int:
    """Count jobs that no study accounts for, and results beyond one for each done job.

    Args:
        settings: Of a local stack that served nothing else meanwhile.
        studies: What was sent.
        since: When the load began; earlier jobs do not count.
    """
    uploads = {one.upload_id for one in studies if one.upload_id}
    key = KeyDirectory(Path(settings.keys)).audit_key()
    repeated = 0
    async with Ledger(settings.ledger_url, key) as ledger:
        token = ""
        while True:
            page = await ledger.list_jobs(settings.tenant, page_size=_PAGE, page_token=token)
            for job in page.jobs:
                if job.created_at < since:
                    return repeated
                repeated += job.upload_id not in uploads
                if job.state is JobState.DONE:
                    events = [event.action for event in await ledger.events(job.id)]
                    repeated += max(0, events.count(_FINISHED) - 1)
            token = page.next_token
            if not token:
                return repeated
