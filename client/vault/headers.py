"""Headers of studies and results as the ledger keeps them: sealed by the vault, bound to their job.

header ──seal (subject key, job id)──▶ Job.header, Job.result_header ──open──▶ header
"""

from __future__ import annotations

from collections.abc import Sequence

from client.crypto.studies import Rewrapped
from client.jobs import Job
from client.proto import ingest_pb2
from client.vault.vault import Sealed, Vault

__all__ = (
    "open_result_header",
    "open_rewrapped",
    "open_study_header",
    "seal_result_header",
    "seal_rewrapped",
    "seal_study_header",
    "sealed_labels",
    "unreadable",
)


async def seal_study_header(
    vault: Vault, subject_key_id: str, job_id: str, header: ingest_pb2.StudyHeader
) -> bytes:
    """Return what ``Job.header`` holds.

    Raises:
        Erased: The patient was erased meanwhile.
    """
    return await vault.seal(subject_key_id, header.SerializeToString(), _study_context(job_id))


async def open_study_header(vault: Vault, job: Job) -> ingest_pb2.StudyHeader:
    """Return a study's header as the sender sent it.

    Raises:
        Erased: The patient was erased.
        Rejected: BAD_ENVELOPE; it was damaged, or is another job's.
    """
    content = await vault.open(job.subject_key_id, job.header, _study_context(job.id))
    return ingest_pb2.StudyHeader.FromString(content)


async def seal_result_header(vault: Vault, job: Job, header: ingest_pb2.ResultHeader) -> bytes:
    """Return what ``Job.result_header`` holds.

    Raises:
        Erased: The patient was erased meanwhile.
    """
    content = header.SerializeToString()
    return await vault.seal(job.subject_key_id, content, _result_context(job.id))


async def open_result_header(vault: Vault, job: Job) -> ingest_pb2.ResultHeader:
    """Return a result's header as the worker made it.

    Raises:
        Erased: The patient was erased.
        Rejected: BAD_ENVELOPE; it was damaged, or is another job's.
    """
    content = await vault.open(job.subject_key_id, job.result_header, _result_context(job.id))
    return ingest_pb2.ResultHeader.FromString(content)


async def seal_rewrapped(vault: Vault, job: Job, rewrapped: Rewrapped) -> bytes:
    """Return what ``Job.rewrapped_dek`` holds.

    Raises:
        Erased: The patient was erased meanwhile.
    """
    context = _rewrapped_context(job.id, rewrapped.key_id)
    return await vault.seal(job.subject_key_id, rewrapped.wrapped_dek, context)


async def open_rewrapped(vault: Vault, job: Job) -> Rewrapped | None:
    """Return a study's data key as a key rotation wrapped it; None when none ever did.

    Raises:
        Erased: The patient was erased.
        Rejected: BAD_ENVELOPE; it was damaged, or is another job's.
    """
    if not job.rewrapped_dek:
        return None
    context = _rewrapped_context(job.id, job.key_id)
    content = await vault.open(job.subject_key_id, job.rewrapped_dek, context)
    return Rewrapped(job.key_id, content)


async def sealed_labels(vault: Vault, jobs: Sequence[Job]) -> list[bytes]:
    """Return ``StudyHeader.sealed_label`` of each job, with one look at the vault; b"" if erased.

    Raises:
        Rejected: BAD_ENVELOPE; a header was damaged, or is another job's.
    """
    return [
        b"" if content is None else ingest_pb2.StudyHeader.FromString(content).sealed_label
        for content in await _contents(vault, jobs)
    ]


async def unreadable(vault: Vault, jobs: Sequence[Job]) -> list[Job]:
    """Return those jobs whose patient's key was destroyed.

    Raises:
        Rejected: BAD_ENVELOPE; a header was damaged, or is another job's.
    """
    contents = await _contents(vault, jobs)
    return [job for job, content in zip(jobs, contents, strict=True) if content is None]


async def _contents(vault: Vault, jobs: Sequence[Job]) -> list[bytes | None]:
    return await vault.open_many(
        [Sealed(job.subject_key_id, job.header, _study_context(job.id)) for job in jobs]
    )


def _study_context(job_id: str) -> bytes:
    return f"study-header|{job_id}".encode()


def _rewrapped_context(job_id: str, key_id: str) -> bytes:
    return f"rewrapped-key|{job_id}|{key_id}".encode()


def _result_context(job_id: str) -> bytes:
    return f"result-header|{job_id}".encode()
