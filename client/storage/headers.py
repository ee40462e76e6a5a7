"""Headers of studies and results as the ledger keeps them: sealed by the vault, bound to their job.

header ──seal (subject key, job id)──▶ Job.header, Job.result_header ──open──▶ header
"""

from __future__ import annotations

from collections.abc import Sequence

from client.jobs import Job
from client.proto import ingest_pb2
from client.storage.vault import Sealed, Vault

__all__ = (
    "open_result_header",
    "open_study_header",
    "seal_result_header",
    "seal_study_header",
    "sealed_labels",
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


async def sealed_labels(vault: Vault, jobs: Sequence[Job]) -> list[bytes]:
    """Return ``StudyHeader.sealed_label`` of each job, with one look at the vault; b"" if erased.

    Raises:
        Rejected: BAD_ENVELOPE; a header was damaged, or is another job's.
    """
    items = [Sealed(job.subject_key_id, job.header, _study_context(job.id)) for job in jobs]
    return [
        b"" if content is None else ingest_pb2.StudyHeader.FromString(content).sealed_label
        for content in await vault.open_many(items)
    ]


def _study_context(job_id: str) -> bytes:
    return f"study-header|{job_id}".encode()


def _result_context(job_id: str) -> bytes:
    return f"result-header|{job_id}".encode()
