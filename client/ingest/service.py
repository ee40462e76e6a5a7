"""The RPCs of the ingest service: each asks the ledger for what the caller may see, and answers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

from client.access.principal import Principal
from client.audittrail import AuditEntry
from client.crypto.keyring import load_public_keys
from client.errors import Busy, NotFound
from client.ingest.erasure import Subject, erase_subject
from client.ingest.intake import Behind, Intake, Requests
from client.ingest.messages import state_of, timestamp, to_event, to_status
from client.ingest.watching import Lookout
from client.jobs import Job
from client.limits import ServiceLimits
from client.proto import ingest_pb2, ingest_pb2_grpc
from client.telemetry.traces import note
from client.vault.headers import open_result_header, sealed_labels

__all__ = ("IngestService",)

_DEFAULT_PAGE = 50
_DEFAULT_EVENTS = 100


class IngestService(ingest_pb2_grpc.IngestServicer):
    """The RPCs of ``hounsfield.ingest.v1.Ingest``.

    The interceptor stands before each: whoever comes here is known and may make the call, the
    request is valid, and errors are told by it.

    Args:
        behind: Where ciphertext, jobs and keys are.
        limits: Every bound.
    """

    def __init__(self, behind: Behind, limits: ServiceLimits) -> None:
        self._store = behind.store
        self._ledger = behind.ledger
        self._vault = behind.vault
        self._intake = Intake(behind, limits)
        self._worker_keys = behind.worker_keys
        self._limits = limits
        self._queue = behind.queue
        self._lookout = Lookout(behind.ledger, limits.watch_interval_s)
        self._watches = 0

    async def listen(self) -> None:
        """Hear of jobs that have ended, until cancelled."""
        await self._lookout.listen(self._queue)

    async def ListRecipientKeys(  # noqa: N802 - gRPC's name
        self, request: ingest_pb2.ListRecipientKeysRequest, caller: Principal
    ) -> ingest_pb2.ListRecipientKeysResponse:
        """Answer the workers' public keys, the newest first."""
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
        self, requests: Requests, caller: Principal
    ) -> ingest_pb2.SubmitStudyResponse:
        """Store a study, enter its job, and only then answer."""
        job, created = await self._intake.take(caller, requests)
        note(job=job.id)
        if not created:
            # A new job's own event says who sent it; what was told of an earlier one is written
            # down like any other look at a job.
            entry = AuditEntry("call.SubmitStudy", job_id=job.id)
            await self._ledger.record(caller.tenant, caller.actor, entry)
        return ingest_pb2.SubmitStudyResponse(job=await self._status(job))

    async def GetJob(  # noqa: N802
        self, request: ingest_pb2.GetJobRequest, caller: Principal
    ) -> ingest_pb2.GetJobResponse:
        """Answer one job."""
        job = await self._ledger.get(request.job_id, caller.tenant)
        return ingest_pb2.GetJobResponse(job=await self._status(job))

    async def ListJobs(  # noqa: N802
        self, request: ingest_pb2.ListJobsRequest, caller: Principal
    ) -> ingest_pb2.ListJobsResponse:
        """Answer a page of the caller's jobs."""
        page = await self._ledger.list_jobs(
            caller.tenant,
            state=state_of(request.state),
            patient=request.patient_pseudonym,
            page_size=request.page_size or _DEFAULT_PAGE,
            page_token=request.page_token,
        )
        labels = await sealed_labels(self._vault, page.jobs)
        return ingest_pb2.ListJobsResponse(
            jobs=map(to_status, page.jobs, labels), next_page_token=page.next_token
        )

    async def CancelJob(  # noqa: N802
        self, request: ingest_pb2.CancelJobRequest, caller: Principal
    ) -> ingest_pb2.CancelJobResponse:
        """Cancel a job that is not finished."""
        job = await self._ledger.cancel(caller.tenant, request.job_id, caller.actor)
        return ingest_pb2.CancelJobResponse(job=await self._status(job))

    async def RetryJob(  # noqa: N802
        self, request: ingest_pb2.RetryJobRequest, caller: Principal
    ) -> ingest_pb2.RetryJobResponse:
        """Give a dead, failed or rejected job a fresh set of tries."""
        job = await self._ledger.retry_by_hand(caller.tenant, request.job_id, caller.actor)
        await self._intake.hint(job)
        return ingest_pb2.RetryJobResponse(job=await self._status(job))

    async def ErasePatient(  # noqa: N802
        self, request: ingest_pb2.ErasePatientRequest, caller: Principal
    ) -> ingest_pb2.ErasePatientResponse:
        """Make all of a patient's studies and results unreadable for good."""
        erased, event = await erase_subject(
            Subject(caller.tenant, request.patient_pseudonym, request.upload_id),
            caller.actor,
            request.reason,
            vault=self._vault,
            ledger=self._ledger,
            store=self._store,
        )
        return ingest_pb2.ErasePatientResponse(
            erased_jobs=erased, event_number=event.number, event_hash=event.hash
        )

    async def ListEvents(  # noqa: N802
        self, request: ingest_pb2.ListEventsRequest, caller: Principal
    ) -> ingest_pb2.ListEventsResponse:
        """Answer a page of the tenant's audit trail."""
        events = await self._ledger.audit_events(
            caller.tenant, request.after, request.page_size or _DEFAULT_EVENTS
        )
        return ingest_pb2.ListEventsResponse(events=map(to_event, events))

    async def WatchJob(  # noqa: N802
        self, request: ingest_pb2.WatchJobRequest, caller: Principal
    ) -> AsyncIterator[ingest_pb2.WatchJobResponse]:
        """Answer a job after each change, until it is finished."""
        with self._watching():
            began = time.monotonic()
            job = await self._ledger.get(request.job_id, caller.tenant)
            label = await self._label(job)
            yield ingest_pb2.WatchJobResponse(job=to_status(job, label))
            while not job.finished:
                watched_s = time.monotonic() - began
                last, job = job, await self._lookout.next(job.id, watched_s)
                if job.finished:  # perhaps by erasure, which takes the label away
                    label = await self._label(job)
                if job != last:
                    yield ingest_pb2.WatchJobResponse(job=to_status(job, label))

    async def FetchResult(  # noqa: N802
        self, request: ingest_pb2.FetchResultRequest, caller: Principal
    ) -> AsyncIterator[ingest_pb2.FetchResultResponse]:
        """Answer a result's header, then its ciphertext."""
        job = await self._ledger.get(request.job_id, caller.tenant)
        if job.withdrawn:
            raise NotFound(f"Job {job.id} has no result any more: {job.reason} ({job.code})")
        if not job.result_key:
            raise NotFound(
                f"Job {job.id} has no result (its state is {job.state}). Watch it until it is done."
            )
        header = await open_result_header(self._vault, job)
        yield ingest_pb2.FetchResultResponse(header=header)
        async for chunk in self._store.get(job.result_key):
            yield ingest_pb2.FetchResultResponse(chunk=chunk)

    async def _status(self, job: Job) -> ingest_pb2.JobStatus:
        return to_status(job, await self._label(job))

    async def _label(self, job: Job) -> bytes:
        return (await sealed_labels(self._vault, (job,)))[0]

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
