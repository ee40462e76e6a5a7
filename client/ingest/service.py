"""The RPCs of the ingest service: each asks who calls, then the ledger, then answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import grpc

from client.crypto.certificates import parse_certificate, tenant_of
from client.crypto.keyring import load_public_keys
from client.errors import AccessDenied, Busy, NotFound
from client.ingest.intake import Intake, Requests
from client.ingest.messages import state_of, timestamp, to_status
from client.jobqueue.base import JobQueue
from client.limits import ServiceLimits
from client.proto import ingest_pb2, ingest_pb2_grpc
from client.storage.ledger import Ledger
from client.storage.objects import ObjectStore

__all__ = ("IngestService", "caller_tenant")

_DEFAULT_PAGE = 50

Context = grpc.aio.ServicerContext[Any, Any]


def caller_tenant(context: Context) -> str:
    """Return the tenant that the caller's certificate names.

    Raises:
        AccessDenied: There is no such certificate.
    """
    for pem in context.auth_context().get("x509_pem_cert", ()):
        return _tenant_in(pem)
    raise AccessDenied("Expected a TLS client certificate that names a tenant, got none.")


@lru_cache(maxsize=1024)
def _tenant_in(pem: bytes) -> str:
    return tenant_of(parse_certificate(pem))


class IngestService(ingest_pb2_grpc.IngestServicer):
    """The RPCs of ``hounsfield.ingest.v1.Ingest``; an interceptor tells their errors.

    Args:
        store: Where ciphertext goes.
        ledger: Where jobs are entered.
        queue: Where workers are told; losing it loses nothing.
        worker_keys: Folder with the public halves of the workers' keys.
        limits: Every bound.
    """

    def __init__(
        self,
        store: ObjectStore,
        ledger: Ledger,
        queue: JobQueue,
        worker_keys: Path,
        limits: ServiceLimits,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._intake = Intake(store, ledger, queue, limits)
        self._worker_keys = worker_keys
        self._limits = limits
        self._watches = 0

    async def ListRecipientKeys(  # noqa: N802 - gRPC's name
        self, request: ingest_pb2.ListRecipientKeysRequest, context: Context
    ) -> ingest_pb2.ListRecipientKeysResponse:
        """Answer the workers' public keys, the newest first."""
        caller_tenant(context)
        found = await asyncio.to_thread(load_public_keys, self._worker_keys)
        keys = [
            ingest_pb2.RecipientKey(
                key_id=key.key_id,
                public_keyset=key.keyset,
                created_at=timestamp(key.created_at),
            )
            for key in found
        ]
        return ingest_pb2.ListRecipientKeysResponse(keys=keys)

    async def SubmitStudy(  # noqa: N802
        self, requests: Requests, context: Context
    ) -> ingest_pb2.SubmitStudyResponse:
        """Store a study, enter its job, and only then answer."""
        job = await self._intake.take(caller_tenant(context), requests)
        return ingest_pb2.SubmitStudyResponse(job=to_status(job))

    async def GetJob(  # noqa: N802
        self, request: ingest_pb2.GetJobRequest, context: Context
    ) -> ingest_pb2.GetJobResponse:
        """Answer one job."""
        job = await self._ledger.get(request.job_id, caller_tenant(context))
        return ingest_pb2.GetJobResponse(job=to_status(job))

    async def ListJobs(  # noqa: N802
        self, request: ingest_pb2.ListJobsRequest, context: Context
    ) -> ingest_pb2.ListJobsResponse:
        """Answer a page of the caller's jobs."""
        page = await self._ledger.list_jobs(
            caller_tenant(context),
            state=state_of(request.state),
            page_size=request.page_size or _DEFAULT_PAGE,
            page_token=request.page_token,
        )
        return ingest_pb2.ListJobsResponse(
            jobs=map(to_status, page.jobs), next_page_token=page.next_token
        )

    async def CancelJob(  # noqa: N802
        self, request: ingest_pb2.CancelJobRequest, context: Context
    ) -> ingest_pb2.CancelJobResponse:
        """Cancel a job that is not finished."""
        job = await self._ledger.cancel(caller_tenant(context), request.job_id)
        return ingest_pb2.CancelJobResponse(job=to_status(job))

    async def WatchJob(  # noqa: N802
        self, request: ingest_pb2.WatchJobRequest, context: Context
    ) -> AsyncIterator[ingest_pb2.WatchJobResponse]:
        """Answer a job after each change, until it is finished."""
        tenant = caller_tenant(context)
        with self._watching():
            last = None
            while True:
                job = await self._ledger.get(request.job_id, tenant)
                if job != last:
                    yield ingest_pb2.WatchJobResponse(job=to_status(job))
                if job.finished:
                    return
                last = job
                await asyncio.sleep(self._limits.watch_interval_s)

    async def FetchResult(  # noqa: N802
        self, request: ingest_pb2.FetchResultRequest, context: Context
    ) -> AsyncIterator[ingest_pb2.FetchResultResponse]:
        """Answer a result's header, then its ciphertext."""
        job = await self._ledger.get(request.job_id, caller_tenant(context))
        if not job.result_key:
            raise NotFound(
                f"Job {job.id} has no result (its state is {job.state}). Watch it until it is done."
            )
        header = ingest_pb2.ResultHeader.FromString(job.result_header)
        yield ingest_pb2.FetchResultResponse(header=header)
        async for chunk in self._store.get(job.result_key):
            yield ingest_pb2.FetchResultResponse(chunk=chunk)

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        if self._watches >= self._limits.max_watches:
            raise Busy(
                f"{self._watches} jobs are being watched at this moment",
                self._limits.retry_after_s,
            )
        self._watches += 1
        try:
            yield
        finally:
            self._watches -= 1
