"""Sends studies and fetches results: the client side of the ingest protocol.

    files ──bundle──▶ seal ──SubmitStudy──▶ job ──WatchJob──▶ done ──FetchResult──▶ open ──▶ files

A call that failed for a reason that may heal is made again, with growing pauses; an upload keeps
its id, so that a study sent twice is one job.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from types import TracebackType
from typing import Self

from client.audittrail import AuditEvent
from client.crypto.keyring import Keyring, PublicKey
from client.crypto.labels import StudyLabel, open_label
from client.crypto.pseudonyms import PseudonymKey
from client.crypto.studies import SealedStudy, open_result
from client.errors import AccessDenied, ConfigurationError, RefusalCode, Rejected, Transient
from client.ingest.bundle import read_bundle
from client.ingest.calls import GatewayConnection, SenderSettings
from client.ingest.messages import event_of, from_status
from client.ingest.submission import (
    Progress,
    StudyKeys,
    StudyOrder,
    prepare_study,
    study_requests,
)
from client.jobs import Job, JobState, Priority
from client.limits import RESULT, MessageLimits
from client.proto import ingest_pb2
from client.telemetry.traces import note, span

__all__ = ("Erasure", "IngestClient", "Progress", "SenderSettings")

_LARGEST_PAGE = MessageLimits().max_page_jobs
_LARGEST_EVENT_PAGE = MessageLimits().max_page_events


@dataclass(frozen=True, slots=True)
class Erasure:
    """The proof that a patient was erased: keep it.

    Attributes:
        jobs: How many jobs' studies and results can no longer be read.
        event_number: Place of the entry in the tenant's audit trail.
        event_hash: Hash of that entry, hexadecimal; it covers every entry before it.
    """

    jobs: int
    event_number: int
    event_hash: str


class IngestClient:
    """A connection to one gateway; use it as an async context manager.

    Methods raise, besides what each says: AccessDenied when the gateway does not accept who we
    are, Transient when it stays away for every try, Busy when it stays full.
    """

    def __init__(self, settings: SenderSettings) -> None:
        self._settings = settings
        self._keyring = Keyring(settings.result_keys)
        self._pseudonyms: PseudonymKey | None = None
        self._gateway = GatewayConnection(settings)

    async def __aenter__(self) -> Self:
        """Read our keys; the first call connects.

        Raises:
            ConfigurationError: A certificate or key is missing.
        """
        self._pseudonyms = PseudonymKey.load(self._settings.pseudonym_key)
        await self._gateway.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        await self._gateway.__aexit__(kind, error, trace)

    async def is_ready(self) -> bool:
        """Return whether the gateway takes studies now; never raises for its absence."""
        return await self._gateway.is_ready()

    async def submit(
        self,
        files: Iterable[Path | bytes],
        *,
        priority: Priority = Priority.ROUTINE,
        model: str = "",
        upload_id: str = "",
        process_again: bool = False,
        on_progress: Progress | None = None,
    ) -> Job:
        """Encrypt a study of one patient and hand it in.

        Args:
            files: DICOM Part 10 files of one study, as paths or content. They are read twice,
                and their headers once more.
            priority: Its place in the queue.
            model: Model to use; "" lets the worker choose.
            upload_id: UUID of an earlier try to send the same files; "" makes a new one.
            process_again: Make a new job even if the same files were sent before; else the answer
                is the earlier job, unless it failed.
            on_progress: Told after every piece.

        Returns:
            The job; it and the study are on the gateway's durable storage.

        Raises:
            Rejected: The study is too large, or breaks a rule of the protocol.
            Conflict: The upload id was used for other files.
            ConfigurationError: A file cannot be read or changed meanwhile, the files are of
                several patients, or we have no key.
        """
        order = StudyOrder(model, priority, upload_id or str(uuid.uuid4()), process_again)
        with span("submit", priority=priority.value):
            study = await self._prepared(list(files), order)
            job = await self.send(study, on_progress)
            self._check_answer(job, study.header)
            note(job=job.id)
            return job

    async def send(self, study: SealedStudy, on_progress: Progress | None = None) -> Job:
        """Hand in a study that is encrypted already; see ``submit``."""

        async def once() -> Job:
            async with contextlib.aclosing(study_requests(study, on_progress)) as requests:
                answer = await self._gateway.upload(requests)
            return self._job(answer.job)

        with span("send"):
            return await self._gateway.tried(once)

    async def get(self, job_id: str) -> Job:
        """Return a job as it is now.

        Raises:
            NotFound: We have no such job.
        """
        answer = await self._gateway.call("GetJob", ingest_pb2.GetJobRequest(job_id=job_id))
        return self._job(answer.job)

    async def list_jobs(
        self, *, state: JobState | None = None, patient: str = "", limit: int = 50
    ) -> tuple[Job, ...]:
        """Return our newest jobs.

        Args:
            state: Only those in this state; None means any.
            patient: Only those of the patient with this pseudonym; "" means all.
            limit: At most so many.
        """
        wanted = f"JOB_STATE_{state.name if state else 'UNSPECIFIED'}"
        found: list[Job] = []
        token = ""
        while len(found) < limit:
            request = ingest_pb2.ListJobsRequest(
                page_size=min(limit - len(found), _LARGEST_PAGE),
                page_token=token,
                state=wanted,
                patient_pseudonym=patient,
            )
            answer = await self._gateway.call("ListJobs", request)
            found += map(self._job, answer.jobs)
            token = answer.next_page_token
            if not token:
                break
        return tuple(found)

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job unless it is finished; return it as it is then.

        Raises:
            NotFound: We have no such job.
        """
        answer = await self._gateway.call("CancelJob", ingest_pb2.CancelJobRequest(job_id=job_id))
        return self._job(answer.job)

    async def retry(self, job_id: str) -> Job:
        """Give a dead, failed or rejected job a fresh set of tries; return it as it is then.

        Raises:
            NotFound: We have no such job.
            WrongState: It is in another state, or its patient was erased.
        """
        answer = await self._gateway.call("RetryJob", ingest_pb2.RetryJobRequest(job_id=job_id))
        return self._job(answer.job)

    async def erase(self, *, patient: str = "", upload_id: str = "", reason: str) -> Erasure:
        """Make every copy of a patient's studies and results unreadable for good.

        Args:
            patient: The patient's pseudonym; or
            upload_id: a study that was sent without one.
            reason: Why, for the audit trail, 3 to 200 characters; no patient data.

        Raises:
            NotFound: There is nothing of that patient or upload.
        """
        request = ingest_pb2.ErasePatientRequest(reason=reason)
        if patient:
            request.patient_pseudonym = patient
        else:
            request.upload_id = upload_id
        answer = await self._gateway.call("ErasePatient", request)
        return Erasure(answer.erased_jobs, answer.event_number, answer.event_hash)

    def pseudonym(self, patient_id: str, issuer: str = "") -> str:
        """Return what the gateway knows a patient by; "" when there is no id."""
        return self._secret.pseudonym(patient_id, issuer)

    def label(self, job: Job) -> StudyLabel | None:
        """Decrypt what to call a job's study on a screen; None where there is nothing to read."""
        return open_label(job.sealed_label, self._keyring, self._secret, job.upload_id)

    async def events(
        self, after: int = 0, limit: int | None = None
    ) -> AsyncGenerator[AuditEvent, None]:
        """Yield our tenant's audit trail, oldest first; needs a token with the role auditor.

        Args:
            after: Only entries after this number; go on later with the last one's.
            limit: At most so many; None yields all there are.
        """
        left = limit
        while left is None or left > 0:
            page = _LARGEST_EVENT_PAGE if left is None else min(left, _LARGEST_EVENT_PAGE)
            request = ingest_pb2.ListEventsRequest(after=after, page_size=page)
            answer = await self._gateway.call("ListEvents", request)
            for message in answer.events:
                yield event_of(message, self._settings.tenant)
                after = message.number
            if len(answer.events) < page:
                return
            left = None if left is None else left - page

    async def watch(self, job_id: str) -> AsyncGenerator[Job, None]:
        """Yield a job as it is now and after each change; end after it finished.

        Raises:
            NotFound: We have no such job.
        """
        request = ingest_pb2.WatchJobRequest(job_id=job_id)
        failures = 0
        while True:
            try:
                async with contextlib.aclosing(self._gateway.stream("WatchJob", request)) as states:
                    async for state in states:
                        failures = 0
                        job = self._job(state.job)
                        yield job
                        if job.finished:
                            return
                raise Transient(f"The gateway said no more of job {job_id}.")
            except Transient as error:
                failures += 1
                await self._gateway.pause(error, failures)

    async def wait(self, job_id: str) -> Job:
        """Return a job when it has finished.

        Raises:
            NotFound: We have no such job.
        """
        async with contextlib.aclosing(self.watch(job_id)) as states:
            return [job async for job in states][-1]

    async def fetch(self, job: Job | str) -> dict[str, bytes]:
        """Return the files of a job's result, decrypted and verified.

        Args:
            job: The job as ``submit`` returned it, or its id. A job is also compared by its
                upload id, which the gateway cannot choose.

        Raises:
            NotFound: There is no result, or its key is not in our keyring.
            Rejected: The result is damaged, or another job's.
        """
        return await self._gateway.tried(lambda: self._fetch_once(job))

    @property
    def _secret(self) -> PseudonymKey:
        if self._pseudonyms is None:
            raise ConfigurationError("Open the client first: `async with IngestClient(…) as c`.")
        return self._pseudonyms

    async def _prepared(self, files: list[Path | bytes], order: StudyOrder) -> SealedStudy:
        with span("prepare"):
            result_key = await asyncio.to_thread(self._keyring.newest)
            keys = StudyKeys(await self._recipient(), result_key, self._secret)
            return await asyncio.to_thread(prepare_study, files, self._settings.tenant, keys, order)

    async def _recipient(self) -> PublicKey:
        answer = await self._gateway.call(
            "ListRecipientKeys", ingest_pb2.ListRecipientKeysRequest()
        )
        trusted = self._settings.trusted_worker_keys
        for key in answer.keys:
            if not trusted or key.key_id in trusted:
                return PublicKey(key.key_id, key.public_keyset, key.created_at.ToDatetime(UTC))
        if trusted:
            raise AccessDenied("The gateway names none of the worker keys that we trust.")
        raise Transient("The gateway has no worker key to encrypt for yet.")

    async def _fetch_once(self, job: Job | str) -> dict[str, bytes]:
        job_id = job if isinstance(job, str) else job.id
        parts = self._gateway.stream(
            "FetchResult",
            ingest_pb2.FetchResultRequest(job_id=job_id),
            self._settings.stall_timeout_s,
        )
        async with contextlib.aclosing(parts):
            header = (await anext(parts)).header
            self._check_ids(header, job)
            plaintext = await open_result(
                header,
                (part.chunk async for part in parts),
                self._keyring,
                max_bytes=self._settings.max_result_bytes,
            )
        return {name: bytes(content) for name, content in read_bundle(plaintext, RESULT)}

    def _check_ids(self, header: ingest_pb2.ResultHeader, job: Job | str) -> None:
        job_id = job if isinstance(job, str) else job.id
        upload_id = header.upload_id if isinstance(job, str) else job.upload_id
        expected = (self._settings.tenant, job_id, upload_id)
        if (header.tenant, header.job_id, header.upload_id) != expected:
            raise Rejected(
                RefusalCode.BAD_ENVELOPE,
                f"The result that came is not that of job {job_id}: report it to the operator.",
            )

    def _check_answer(self, job: Job, sent: ingest_pb2.StudyHeader) -> None:
        """A study that was sent before is answered by its earlier job: it must be our patient's."""
        if job.upload_id == sent.upload_id:
            return
        ours = open_label(sent.sealed_label, self._keyring, self._secret, sent.upload_id)
        if ours is None or self.label(job) != ours:
            raise Rejected(
                RefusalCode.BAD_ENVELOPE,
                f"The gateway answered with job {job.id}, which is not of the study that was sent.",
            )

    def _job(self, status: ingest_pb2.JobStatus) -> Job:
        return from_status(status, self._settings.tenant)
