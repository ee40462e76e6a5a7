"""What goes into the ledger and what comes out besides jobs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from client.jobs import Job, JobState, Priority
from client.objectstore.objects import StoredObject

__all__ = (
    "AttemptCost",
    "Backlog",
    "Claimable",
    "JobPage",
    "JobResult",
    "NewJob",
    "ServedModel",
    "WorkCount",
)


@dataclass(frozen=True, slots=True)
class NewJob:
    """A study that has just been stored.

    Attributes:
        id: Fresh UUID, also part of the object's key.
        content_sha256: Hash of the plaintext as the header claims it, hexadecimal: what makes two
            uploads of one id the same.
        stored: Where the ciphertext lies.
        header: The ``StudyHeader``, sealed.
        patient: The patient's pseudonym, "" for none.
        subject_key_id: The key under which the header is sealed.
        key_id: The worker's key that the study's own key is encrypted for.
        content_key: Equal for studies whose results would be equal: while one of them answers for
            the others (``client.ledger.service``), another is not entered. "" enters a job in any
            case.
        trace: The call that brought the study, as W3C ``traceparent``; None when nobody traces it.
    """

    id: str
    tenant: str
    upload_id: str
    priority: Priority
    model: str
    content_sha256: str
    stored: StoredObject
    header: bytes
    patient: str = ""
    subject_key_id: str = ""
    key_id: str = ""
    content_key: str = ""
    trace: str | None = None


@dataclass(frozen=True, slots=True)
class JobResult:
    """An encrypted result that has just been stored, and its sealed ``ResultHeader``."""

    stored: StoredObject
    header: bytes


@dataclass(frozen=True, slots=True)
class AttemptCost:
    """What one attempt took with one of its models.

    Attributes:
        model: "" when it came to no model.
        version: Of the model's network, "" for none.
        engine: What ran the network, "" for none.
        device: ``gpu`` or ``cpu``: what the engine ran on, "" for none.
        slices: That came back from the network.
        engine_us: Microseconds for which the engine was kept, ``client.triton.occupancy``.
        cpu_us: Microseconds of the worker's cores.
        fetched_bytes: Read from the object store.
        stored_bytes: Written to it.
    """

    model: str
    version: str
    engine: str
    device: str
    slices: int
    engine_us: int
    cpu_us: int
    fetched_bytes: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some jobs, newest first; ``next_token`` is "" on the last page."""

    jobs: tuple[Job, ...]
    next_token: str


@dataclass(frozen=True, slots=True)
class Claimable:
    """What a queue needs to know of a job that a worker could take."""

    id: str
    priority: Priority
    state: JobState
    attempt: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """Unfinished work: number of jobs, and bytes of their studies."""

    jobs: int
    bytes: int


@dataclass(frozen=True, slots=True)
class WorkCount:
    """How many jobs of a priority are in one state, and when the oldest was received."""

    state: JobState
    priority: Priority
    number: int
    oldest_at: datetime


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as a worker serves it now: whatever changes its answers changes one of these.

    Attributes:
        name: Of the model.
        version: Of its network.
        engine: What runs the network.
        network_sha256: Hash of the network, "" where it is not at hand.
        spec_sha256: Hash of the model's description.
    """

    name: str
    version: str
    engine: str
    network_sha256: str
    spec_sha256: str
