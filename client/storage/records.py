"""What goes into the ledger and what comes out besides jobs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from client.jobs import Job, JobState, Priority
from client.storage.objects import StoredObject

__all__ = ("Backlog", "JobEvent", "JobPage", "JobResult", "NewJob")


@dataclass(frozen=True, slots=True)
class NewJob:
    """A study that has just been stored.

    Attributes:
        id: Fresh UUID, also part of the object's key.
        content_sha256: Hash of the plaintext as the header claims it, hexadecimal: what makes two
            uploads of one id the same.
        stored: Where the ciphertext lies.
        header: The serialised ``StudyHeader``.
    """

    id: str
    tenant: str
    upload_id: str
    priority: Priority
    model: str
    content_sha256: str
    stored: StoredObject
    header: bytes


@dataclass(frozen=True, slots=True)
class JobResult:
    """An encrypted result that has just been stored, and its serialised ``ResultHeader``."""

    stored: StoredObject
    header: bytes


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One line of a job's history; ``detail`` is for people and holds no patient data."""

    at: datetime
    event: str
    state: JobState
    attempt: int
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some jobs, newest first; ``next_token`` is "" on the last page."""

    jobs: tuple[Job, ...]
    next_token: str


@dataclass(frozen=True, slots=True)
class Backlog:
    """Unfinished work: number of jobs, and bytes of their studies."""

    jobs: int
    bytes: int
