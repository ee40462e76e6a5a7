"""A ledger, a vault and a store with jobs in every state, to be saved and brought back."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from client.backup.snapshot import LEDGER_TABLES
from client.errors import RefusalCode
from client.jobs import Actor, Job, JobState
from client.ledger.ledger import Ledger
from client.ledger.records import JobResult
from client.objectstore.objects import ObjectStore, result_key, study_key
from client.sql.database import open_database
from client.vault.vault import Vault
from tests.ledgers import LEASE_S, cost_of, new_job

__all__ = ("OPERATOR", "Site", "ledger_rows")

OPERATOR = Actor("dr.care", "operator")


async def _stream(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 1 << 20):
        yield content[start : start + (1 << 20)]


@dataclass
class Site:
    """What one installation keeps."""

    ledger: Ledger
    vault: Vault
    store: ObjectStore

    async def submitted(self, size: int = 2000, patient: str = "") -> Job:
        """Enter a study of random bytes."""
        new = new_job(patient=patient)
        stored = await self.store.put(study_key(new.id), _stream(os.urandom(size)))
        subject = await self.vault.key_for("radiology", patient or f"upload:{new.upload_id}")
        header = await self.vault.seal(subject, f"header of {new.id}".encode(), b"")
        made = new_job(
            id=new.id,
            patient=patient,
            stored=stored,
            subject_key_id=subject,
            header=header,
            trace=f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01" if patient else None,
        )
        return (await self.ledger.submit(made))[0]

    async def done(self, size: int = 2000, patient: str = "") -> Job:
        """Enter a study and its result."""
        job = await self.submitted(size, patient)
        claimed = await self.ledger.claim(job.id, "w", LEASE_S)
        content = _stream(os.urandom(size // 2))
        stored = await self.store.put(result_key(job.id, claimed.attempt), content)
        header = await self.vault.seal(job.subject_key_id, f"result of {job.id}".encode(), b"")
        costs = [cost_of(), cost_of("chest_ct")]
        return await self.ledger.finish(claimed, JobResult(stored, header), costs)

    async def fill(self, number: int = 3, largest_bytes: int = 3000) -> None:
        """Enter so many jobs of every state and fate."""
        for _ in range(number):
            size = random.randrange(1, largest_bytes)
            await self.submitted(size)
            await self.done(size, patient=f"p-{os.urandom(8).hex()}")
            await self.ledger.mark_queued((await self.submitted(size)).id)
            running = await self.submitted(size)
            await self.ledger.claim(running.id, "wörker", LEASE_S)
            rejected = await self.ledger.claim((await self.submitted(size)).id, "w", LEASE_S)
            await self.ledger.reject(rejected, RefusalCode.NO_MODEL, 'Nothing "takes" it: µ, 漢.')
            await self.ledger.cancel("radiology", (await self.submitted(size)).id, OPERATOR)
        expired = await self.done()
        await self.ledger.expire([expired.id])
        await self.store.delete(expired.object_key)
        await self.store.delete(expired.result_key)
        assert set(await self.ledger.counts()) >= {JobState.DONE, JobState.RECEIVED}

    async def erase(self, job: Job) -> None:
        """Erase the patient of a job."""
        await self.vault.destroy("radiology", job.patient)
        await self.ledger.erase("radiology", [job.id], OPERATOR, "asked for")
        await self.store.delete(job.object_key)
        await self.store.delete(job.result_key)

    async def opened(self) -> set[bytes]:
        """Return every header that the vault opens."""
        jobs = (await self.ledger.list_jobs("radiology", page_size=10_000)).jobs
        return {
            await self.vault.open(job.subject_key_id, job.header, b"")
            for job in jobs
            if job.code != RefusalCode.ERASED
        }


async def ledger_rows(url: str) -> dict[str, list[dict[str, Any]]]:
    """Return every row of a ledger, as Python's own types."""
    engine = open_database(url)
    try:
        async with engine.begin() as connection:
            return {
                table.name: [
                    row._asdict()
                    for row in await connection.execute(
                        select(table).order_by(*table.primary_key.columns)
                    )
                ]
                for table in LEDGER_TABLES
            }
    finally:
        await engine.dispose()
