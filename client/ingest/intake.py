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

from client.crypto.envelope import ciphertext_length
from client.errors import (
    AccessDenied,
    Busy,
    ConfigurationError,
    Conflict,
    RefusalCode,
    Rejected,
    Transient,
)
from client.faultpoints import Step, reach
from client.ingest.messages import check, priority_of
from client.jobqueue.base import JobQueue
from client.jobs import Job
from client.limits import ServiceLimits
from client.proto import ingest_pb2
from client.storage.ledger import Ledger
from client.storage.objects import ObjectStore, study_key
from client.storage.records import NewJob

__all__ = ("Intake", "Requests")

_LOG = logging.getLogger(__name__)

Requests = AsyncIterator[ingest_pb2.SubmitStudyRequest]


class Intake:
    """Where uploads arrive.

    Args:
        store: Where ciphertext goes.
        ledger: Where jobs are entered.
        queue: Where workers are told; losing it loses nothing.
        limits: Every bound.
    """

    def __init__(
        self, store: ObjectStore, ledger: Ledger, queue: JobQueue, limits: ServiceLimits
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._queue = queue
        self._limits = limits
        self._arriving: list[int] = []

    async def take(self, tenant: str, requests: Requests) -> Job:
        """Store a study and enter its job; return the job, also of an earlier equal upload.

        Args:
            tenant: Who the caller is.
            requests: Header, then ciphertext.

        Raises:
            AccessDenied: The header names another tenant.
            Busy: There is no room now.
            Conflict: The upload id was used for other content.
            Rejected: The upload breaks the protocol, or is not what its header says.
            Transient: It stalled, or a store is away.
        """
        header = await self._header(requests, tenant)
        content = header.plaintext_sha256.hex()
        job = await self._ledger.find_upload(tenant, header.upload_id, content)
        if job is None and (same := _content_key(header)):
            job = await self._ledger.find_content(tenant, same)
        if job is None:
            with self._admitted(header):
                await self._refuse_when_full()
                job = await self._take_in(header, requests)
        return job

    async def _header(self, requests: Requests, tenant: str) -> ingest_pb2.StudyHeader:
        first = await self._next(requests)
        if first is None or first.WhichOneof("part") != "header":
            raise Rejected(RefusalCode.INVALID_REQUEST, "Expected the header in the first message.")
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
                f"{header.plaintext_bytes} bytes, the header says {header.ciphertext_bytes}.",
            )
        return header

    async def _take_in(self, header: ingest_pb2.StudyHeader, requests: Requests) -> Job:
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
        new = NewJob(
            id=job_id,
            tenant=header.tenant,
            upload_id=header.upload_id,
            priority=priority_of(header.priority),
            model=header.model,
            content_sha256=header.plaintext_sha256.hex(),
            stored=stored,
            header=header.SerializeToString(),
            patient=header.patient_pseudonym,
            key_id=header.key_id,
            content_key=_content_key(header),
        )
        try:
            job, created = await self._ledger.submit(new)
        except Conflict:
            await self._store.delete(stored.key)
            raise
        if not created:
            await self._store.delete(stored.key)
            return job
        _LOG.info("%s stored: %d bytes, %s", job.id, job.object_bytes, job.priority)
        reach(Step.ROW_COMMITTED)
        await self._hint(job)
        return job

    async def _ciphertext(
        self, header: ingest_pb2.StudyHeader, requests: Requests
    ) -> AsyncIterator[bytes]:
        received = 0
        while (message := await self._next(requests)) is not None:
            if message.WhichOneof("part") != "chunk":
                raise Rejected(RefusalCode.INVALID_REQUEST, "Expected one header, got another.")
            received += len(message.chunk)
            if received > header.ciphertext_bytes:
                break
            yield message.chunk
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
        if message is not None:
            check(message)
        return message

    async def _hint(self, job: Job) -> None:
        try:
            async with asyncio.timeout(self._limits.queue_timeout_s):
                await self._queue.put(job.id, job.priority)
                reach(Step.HINTED)
                await self._ledger.mark_queued(job.id)
        except (Transient, ConfigurationError, TimeoutError) as error:
            _LOG.warning("%s waits for the reconciler: %s", job.id, error or "the queue is slow")

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
    )
    return hashlib.sha256("|".join(parts).encode()).hexdigest()
