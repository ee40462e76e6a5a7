"""Takes one upload in: durable before it is acknowledged, or not at all.

    header, chunks ──▶ object store, durable ──▶ ledger row, durable ──▶ answer ──▶ queue hint

An upload that ends early leaves nothing. When only the ledger's answer was lost, the object stays
until the sweep finds that no row has it: deleting it on a guess could lose an entered study.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from client.access.principal import Principal
from client.crypto.envelope import ciphertext_length
from client.crypto.keyring import load_public_keys
from client.errors import (
    AccessDenied,
    Busy,
    ConfigurationError,
    Conflict,
    Erased,
    RefusalCode,
    Rejected,
    Transient,
)
from client.faultpoints import Step, reach
from client.ingest.erasure import Subject
from client.ingest.messages import Undecodable, check, check_chunk, priority_of
from client.jobqueue.base import JobQueue
from client.jobs import Actor, Job
from client.ledger.ledger import Ledger
from client.ledger.records import NewJob
from client.limits import ServiceLimits
from client.objectstore.objects import ObjectStore, StoredObject, study_key
from client.proto import ingest_pb2
from client.telemetry.traces import traceparent
from client.vault.headers import seal_study_header
from client.vault.vault import Vault

__all__ = ("Behind", "Intake", "Requests")

_LOG = logging.getLogger(__name__)

Requests = AsyncIterator[ingest_pb2.SubmitStudyRequest]


@dataclass(frozen=True, slots=True)
class Behind:
    """What stands behind a gateway.

    Attributes:
        store: Where ciphertext goes.
        ledger: Where jobs are entered.
        vault: Has the patients' keys.
        queue: Where workers are told; losing it loses nothing.
        worker_keys: Folder with the public halves of the workers' keys.
    """

    store: ObjectStore
    ledger: Ledger
    vault: Vault
    queue: JobQueue
    worker_keys: Path


class Intake:
    """Where uploads arrive.

    Args:
        behind: Where ciphertext and jobs go, and what seals headers.
        limits: Every bound.
    """

    def __init__(self, behind: Behind, limits: ServiceLimits) -> None:
        self._store = behind.store
        self._ledger = behind.ledger
        self._vault = behind.vault
        self._queue = behind.queue
        self._worker_keys = behind.worker_keys
        self._limits = limits
        self._arriving: list[int] = []

    async def take(self, caller: Principal, requests: Requests) -> tuple[Job, bool]:
        """Store a study and enter its job.

        Args:
            caller: Who sends it.
            requests: Header, then ciphertext.

        Returns:
            The job, and whether it is new; the answer may be the job of an earlier equal upload.

        Raises:
            AccessDenied: The header names another tenant.
            Busy: There is no room now.
            Conflict: The upload id was used for other content.
            Rejected: The upload breaks the protocol, or is not what its header says.
            Transient: It stalled, or a store is away.
        """
        header = await self._header(requests, caller.tenant)
        earlier = await self._earlier(header)
        if earlier is not None:
            return earlier, False
        await self._check_recipient(header)
        with self._admitted(header):
            await self._refuse_when_full()
            return await self._take_in(header, requests, caller.actor)

    async def hint(self, job: Job) -> None:
        """Tell the workers of a job; the reconciler mends what goes wrong."""
        try:
            async with asyncio.timeout(self._limits.queue_timeout_s):
                await self._queue.put(job.id, job.priority)
                reach(Step.HINTED)
                await self._ledger.mark_queued(job.id)
                reach(Step.MARKED_QUEUED)
        except (Transient, ConfigurationError, TimeoutError) as error:
            _LOG.warning("%s waits for the reconciler: %s", job.id, error or "the queue is slow")

    async def _earlier(self, header: ingest_pb2.StudyHeader) -> Job | None:
        content = header.plaintext_sha256.hex()
        job = await self._ledger.find_upload(header.tenant, header.upload_id, content)
        if job is None and (same := _content_key(header)):
            priority = priority_of(header.priority)
            job = await self._ledger.find_content(header.tenant, same, priority)
        return job

    async def _check_recipient(self, header: ingest_pb2.StudyHeader) -> None:
        keys = await asyncio.to_thread(load_public_keys, self._worker_keys)
        if header.key_id not in {key.key_id for key in keys}:
            raise Rejected(
                RefusalCode.BAD_ENVELOPE,
                "The study is encrypted for a key that no worker has: ask for the keys in service "
                "and encrypt it anew.",
            )

    async def _header(self, requests: Requests, tenant: str) -> ingest_pb2.StudyHeader:
        first = await self._next(requests)
        if first is not None:
            check(first)
        if first is None or first.WhichOneof("part") != "header":
            raise Rejected(
                RefusalCode.INVALID_REQUEST,
                "Expected the header in the first message: send it first.",
            )
        header = first.header
        if header.tenant != tenant:
            raise AccessDenied(
                f"The header says tenant {header.tenant}, the certificate says {tenant}."
            )
        if header.plaintext_bytes > self._limits.max_study_bytes:
            raise Rejected(
                RefusalCode.TOO_LARGE,
                f"Expected a bundle of at most {self._limits.max_study_bytes} bytes, "
                f"got {header.plaintext_bytes}: send fewer series at a time.",
            )
        if header.ciphertext_bytes != ciphertext_length(header.plaintext_bytes):
            raise Rejected(
                RefusalCode.BAD_ENVELOPE,
                f"Expected {ciphertext_length(header.plaintext_bytes)} bytes of ciphertext for "
                f"{header.plaintext_bytes} bytes, the header says {header.ciphertext_bytes}: "
                "encrypt and send again.",
            )
        return header

    async def _take_in(
        self, header: ingest_pb2.StudyHeader, requests: Requests, actor: Actor
    ) -> tuple[Job, bool]:
        job_id = str(uuid.uuid4())
        reach(Step.UPLOAD_BEGUN)
        limits = self._limits
        longest_s = limits.chunk_timeout_s + header.ciphertext_bytes / limits.min_upload_bytes_per_s
        try:
            async with asyncio.timeout(longest_s):
                ciphertext = self._ciphertext(header, requests)
                stored = await self._store.put(study_key(job_id), ciphertext)
        except TimeoutError as error:
            raise Transient(
                f"The upload took longer than {longest_s:g} s; send it again."
            ) from error
        reach(Step.OBJECT_STORED)
        try:
            new = await self._sealed(job_id, header, stored)
            job, created = await self._ledger.submit(new, actor)
        except (Conflict, Rejected):
            await self._store.delete(stored.key)
            raise
        if not created:
            await self._store.delete(stored.key)
            return job, False
        _LOG.info("%s stored: %d bytes, %s", job.id, job.object_bytes, job.priority)
        reach(Step.ROW_COMMITTED)
        await self.hint(job)
        return job, True

    async def _sealed(
        self, job_id: str, header: ingest_pb2.StudyHeader, stored: StoredObject
    ) -> NewJob:
        # Asked again, since a key may have been withdrawn while the study was on its way.
        await self._check_recipient(header)
        subject = Subject(header.tenant, header.patient_pseudonym, header.upload_id)
        key_id = await self._vault.key_for(subject.tenant, subject.name)
        reach(Step.SUBJECT_KEY_MADE)
        try:
            sealed = await seal_study_header(self._vault, key_id, job_id, header)
        except Erased as error:
            raise Transient(
                "The patient was erased while the study was on its way; send it again."
            ) from error
        return NewJob(
            id=job_id,
            tenant=header.tenant,
            upload_id=header.upload_id,
            priority=priority_of(header.priority),
            model=header.model,
            content_sha256=header.plaintext_sha256.hex(),
            stored=stored,
            header=sealed,
            patient=header.patient_pseudonym,
            subject_key_id=key_id,
            key_id=header.key_id,
            content_key=_content_key(header),
            trace=traceparent(),
        )

    async def _ciphertext(
        self, header: ingest_pb2.StudyHeader, requests: Requests
    ) -> AsyncIterator[bytes]:
        received = 0
        while (message := await self._next(requests)) is not None:
            if isinstance(message, Undecodable) or message.WhichOneof("part") != "chunk":
                check(message)
                raise Rejected(
                    RefusalCode.INVALID_REQUEST,
                    "Expected one header, got another: send it once.",
                )
            chunk = message.chunk
            check_chunk(message, chunk)
            received += len(chunk)
            if received > header.ciphertext_bytes:
                break
            yield chunk
        if received != header.ciphertext_bytes:
            raise Rejected(
                RefusalCode.BAD_ENVELOPE,
                f"Expected {header.ciphertext_bytes} bytes of ciphertext, got "
                f"{'more' if received > header.ciphertext_bytes else received}: send it again.",
            )

    async def _next(self, requests: Requests) -> ingest_pb2.SubmitStudyRequest | None:
        try:
            async with asyncio.timeout(self._limits.chunk_timeout_s):
                message = await anext(requests, None)
        except TimeoutError as error:
            raise Transient(
                f"Nothing came for {self._limits.chunk_timeout_s:g} s; send it again."
            ) from error
        return message

    async def _refuse_when_full(self) -> None:
        backlog = await self._ledger.backlog()
        if backlog.jobs >= self._limits.max_unfinished_jobs:
            raise self._busy(f"{backlog.jobs} studies are waiting already")
        held = backlog.bytes + sum(self._arriving)
        if held > self._limits.max_unfinished_bytes:
            raise self._busy("The studies that wait take up all the space there is for them")

    @contextlib.contextmanager
    def _admitted(self, header: ingest_pb2.StudyHeader) -> Iterator[None]:
        if len(self._arriving) >= self._limits.max_uploads:
            raise self._busy(f"{len(self._arriving)} studies are arriving at this moment")
        self._arriving.append(header.ciphertext_bytes)
        try:
            yield
        finally:
            self._arriving.remove(header.ciphertext_bytes)

    def _busy(self, reason: str) -> Busy:
        return Busy(reason, self._limits.retry_after_s)


def _content_key(header: ingest_pb2.StudyHeader) -> str:
    """Return what two studies share whose results would be equal; "" when they are not to."""
    if header.process_again:
        return ""
    parts = (
        header.tenant,
        header.model,
        header.plaintext_sha256.hex(),
        header.recipient_key_id,
        # Under another pseudonym it must be a job of its own, or erasing that one would miss it.
        header.patient_pseudonym,
    )
    return hashlib.sha256("|".join(parts).encode()).hexdigest()
