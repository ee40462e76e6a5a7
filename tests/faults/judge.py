"""Compares what the senders were promised with what the system holds: nothing lost, nothing twice.

journal + ledger + stored objects + results ──judge──▶ Verdict
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from client.errors import ClientError
from client.ingest.sender import IngestClient
from client.jobqueue.memory import MemoryQueue
from client.jobs import Job, JobState
from client.ledger.ledger import Ledger
from client.objectstore.stores import open_store
from client.upkeep.reconcile import Reconciler, ReconcilerSettings
from tests.faults.journal import Journal, Upload
from tests.faults.senders import check_result
from tests.faults.stand import Stand

__all__ = ("SETTLE_S", "Verdict", "judge")

SETTLE_S = 60.0
"""What every study may take after the last fault."""
_GIVE_UP_S = 240.0
_READERS = 6
_PAGE = 500
_FINISHED = "job.finished"
_PREFIXES = ("studies", "results")


@dataclass
class Verdict:
    """What was found.

    Attributes:
        acknowledged: Studies that a sender was told are safe.
        done: Those of them that are done.
        erased: Those whose patient was erased; none of them may be readable.
        lost: Acknowledged, and not there, not finished, or without a result that opens.
        repeated: Jobs, finish events or stored results beyond one for each study.
        settled_s: From the last fault until every study was finished.
        attempts: How many studies took how many attempts.
        objects: Stored objects after the sweep.
        swept: What crashes had left in the store, deleted by the sweep.
        events: Length of the audit trail, whose chain was verified.
        findings: Every broken promise, one sentence each.
    """

    acknowledged: int = 0
    done: int = 0
    erased: int = 0
    lost: int = 0
    repeated: int = 0
    settled_s: float = 0.0
    attempts: Counter[int] = field(default_factory=Counter)
    objects: int = 0
    swept: int = 0
    events: int = 0
    findings: list[str] = field(default_factory=list)

    @property
    def held(self) -> bool:
        """Whether every promise held."""
        return not self.findings

    def missed(self, sentence: str) -> None:
        """Note a study that was lost."""
        self.lost += 1
        self.findings.append(sentence)

    def doubled(self, sentence: str) -> None:
        """Note something that is there more than once."""
        self.repeated += 1
        self.findings.append(sentence)


async def judge(stand: Stand, journal: Journal, last_fault: float) -> Verdict:
    """Wait until everything has settled, then look at every promise.

    Args:
        stand: A stack that runs, with senders that have stopped.
        journal: What they were told.
        last_fault: ``time.monotonic()`` of the last fault.
    """
    verdict = Verdict()
    uploads = journal.uploads()
    async with stand.ledger() as ledger:
        jobs = await _settled(stand, ledger, verdict, last_fault)
        _compare(uploads.values(), jobs, verdict)
        gone = {upload.upload_id for upload in uploads.values() if upload.erased}
        kept = [job for job in jobs if job.upload_id not in gone]
        await _look_at_events(ledger, kept, verdict)
        await _look_at_objects(stand, ledger, kept, verdict)
    mine = {job.upload_id: job for job in jobs}
    async with stand.client() as client:
        room = asyncio.Semaphore(_READERS)
        readable = (u for u in uploads.values() if u.job_ids and u.upload_id in mine)
        await asyncio.gather(
            *(_read(client, room, mine[u.upload_id], u, verdict) for u in readable)
        )
    return verdict


async def _settled(stand: Stand, ledger: Ledger, verdict: Verdict, since: float) -> list[Job]:
    """Wait until no job is unfinished; return all of them."""
    while True:
        try:
            jobs = await _all_jobs(ledger, stand.settings.tenant)
        except ClientError:
            jobs = []
        verdict.settled_s = round(time.monotonic() - since, 1)
        open_jobs = [job for job in jobs if not job.finished]
        if jobs and not open_jobs:
            break
        if verdict.settled_s > _GIVE_UP_S:
            break
        await asyncio.sleep(0.2)
    if verdict.settled_s > SETTLE_S:
        verdict.findings.append(
            f"it took {verdict.settled_s:g} s until every study was finished "
            f"({len(open_jobs)} are not)"
        )
    return jobs


async def _all_jobs(ledger: Ledger, tenant: str) -> list[Job]:
    jobs: list[Job] = []
    token = ""
    while True:
        page = await ledger.list_jobs(tenant, page_size=_PAGE, page_token=token)
        jobs += page.jobs
        token = page.next_token
        if not token:
            return jobs


def _compare(uploads: Iterable[Upload], jobs: list[Job], verdict: Verdict) -> None:
    """Each acknowledged study has the one job that its sender was told, and it is done."""
    held: dict[str, list[Job]] = {}
    for job in jobs:
        held.setdefault(job.upload_id, []).append(job)
        verdict.attempts[job.attempt] += 1
    known = set()
    for upload in uploads:
        known.add(upload.upload_id)
        mine = held.get(upload.upload_id, [])
        verdict.findings += [f"study {upload.number} was refused: {a}" for a in upload.refused]
        if len(mine) > 1 or len(upload.job_ids) > 1:
            verdict.doubled(f"study {upload.number} has {len(mine)} jobs, told {upload.job_ids}")
        if not upload.job_ids:
            continue
        verdict.acknowledged += 1
        if not mine or {mine[0].id} != upload.job_ids:
            verdict.missed(f"study {upload.number} was acknowledged and has no such job")
        elif upload.erased:
            verdict.erased += 1
        elif mine[0].state is not JobState.DONE:
            job = mine[0]
            verdict.missed(f"study {upload.number} is {job.state}: {job.code} {job.reason}")
        else:
            verdict.done += 1
    for upload_id in held.keys() - known:
        verdict.doubled(f"a job has an upload id that nobody sent: {upload_id}")


async def _look_at_events(ledger: Ledger, jobs: list[Job], verdict: Verdict) -> None:
    """Each done job has exactly one end, its last change; and no chain of events is broken."""
    for job in jobs:
        names = [event.action for event in await ledger.events(job.id)]
        changes = [name for name in names if name.startswith("job.")]
        if job.state is not JobState.DONE:
            continue
        if changes.count(_FINISHED) != 1:
            verdict.doubled(f"job {job.id} has {changes.count(_FINISHED)} finish events")
        elif changes[-1] != _FINISHED:
            verdict.findings.append(f"job {job.id} went on after its end: {changes}")
    for chain in await ledger.verify_chains():
        verdict.events += chain.events
        verdict.findings += [f"audit trail of {chain.tenant!r}: {f}" for f in chain.faults]


async def _look_at_objects(stand: Stand, ledger: Ledger, jobs: list[Job], verdict: Verdict) -> None:
    """After the sweep there is one study and one result for each job, and nothing else."""
    store = open_store(stand.settings.store_url)
    at_once = ReconcilerSettings(orphan_age_s=0.0)
    verdict.swept = await Reconciler(ledger, MemoryQueue(), store, at_once).sweep()
    there = {entry.key for prefix in _PREFIXES async for entry in store.list(prefix)}
    verdict.objects = len(there)
    expected = {key for job in jobs for key in (job.object_key, job.result_key) if key}
    verdict.findings += [f"{key} is missing in the store" for key in sorted(expected - there)]
    for key in sorted(there - expected):
        verdict.doubled(f"{key} belongs to no job")


async def _read(
    client: IngestClient, room: asyncio.Semaphore, job: Job, upload: Upload, verdict: Verdict
) -> None:
    """The result of each done study opens, and is its own; that of an erased one never does."""
    if job.state is not JobState.DONE and not upload.erased:
        return
    async with room:
        try:
            check_result(await client.fetch(job.id), upload.number)
        except (ClientError, AssertionError) as error:
            if not upload.erased:
                verdict.missed(f"the result of study {upload.number} cannot be read: {error}")
        else:
            if upload.erased:
                verdict.findings.append(f"study {upload.number} was erased and can be read")
