"""What a job is: the one record that the gateway, the ledger, the worker and the sender share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from client.errors import RefusalCode

__all__ = ("TERMINAL_STATES", "TRANSITIONS", "Actor", "Job", "JobState", "Priority")


class JobState(StrEnum):
    """Where a job is in its life; ``TRANSITIONS`` says what may follow."""

    RECEIVED = "received"
    """Durably stored; the queue has not been told yet."""
    QUEUED = "queued"
    """Waiting for a worker."""
    RUNNING = "running"
    """A worker holds attempt n of it."""
    DONE = "done"
    """The result is stored."""
    FAILED = "failed"
    """Given up for a reason that trying again does not mend; the code says which."""
    REJECTED = "rejected"
    """The study cannot be processed as it is; the code says why."""
    DEAD = "dead"
    """The dead letter: every attempt failed for a reason that might have healed."""
    CANCELLED = "cancelled"
    """The sender took it back."""


TRANSITIONS: Mapping[JobState, frozenset[JobState]] = MappingProxyType(
    {
        JobState.RECEIVED: frozenset(
            # A worker may be faster than the note that the queue was told.
            (JobState.QUEUED, JobState.RUNNING, JobState.FAILED, JobState.CANCELLED)
        ),
        JobState.QUEUED: frozenset(
            (JobState.RUNNING, JobState.FAILED, JobState.DEAD, JobState.CANCELLED)
        ),
        JobState.RUNNING: frozenset(
            (
                JobState.RUNNING,  # taken over by the next attempt
                JobState.QUEUED,
                JobState.DONE,
                JobState.FAILED,
                JobState.REJECTED,
                JobState.DEAD,
                JobState.CANCELLED,
            )
        ),
        JobState.DONE: frozenset(),
        JobState.FAILED: frozenset((JobState.QUEUED,)),
        JobState.REJECTED: frozenset((JobState.QUEUED,)),
        JobState.DEAD: frozenset((JobState.QUEUED,)),
        JobState.CANCELLED: frozenset(),
    }
)
"""What may follow each state. Dead, failed and rejected jobs live again only when a person retries
them: a key was restored, a model was put into service."""

TERMINAL_STATES = frozenset(
    (
        JobState.DONE,
        JobState.FAILED,
        JobState.REJECTED,
        JobState.DEAD,
        JobState.CANCELLED,
    )
)
"""States that no worker changes any more."""

WAITING_STATES = frozenset(
    state for state, next_states in TRANSITIONS.items() if JobState.RUNNING in next_states
) - {JobState.RUNNING}
"""States from which a worker may begin."""

WITHDRAWN_CODES = frozenset((RefusalCode.ERASED.value, RefusalCode.EXPIRED.value))
"""Codes of jobs whose study and result are gone for good, whatever their state."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did something, for the audit trail.

    Attributes:
        name: A token's subject, a certificate's tenant, or one of our processes.
        role: The role that allowed it; "" for the system's own steps.
    """

    name: str
    role: str = ""


class Priority(StrEnum):
    """STAT studies are started before every waiting ROUTINE study."""

    STAT = "stat"
    ROUTINE = "routine"


@dataclass(frozen=True, slots=True)
class Job:
    """One study on its way, as the ledger knows it. Holds no patient data.

    Attributes:
        id: Server-made id (UUID, lower-case hex with dashes).
        tenant: Owner; every lookup is scoped by it.
        upload_id: Sender-made UUID that makes an upload idempotent.
        model: Model the sender asked for, or "" for routing by rules.
        attempt: 0 before the first claim; the fence: only the current attempt may write.
        stage: Name of the pipeline stage the current attempt is in, "" when not running.
        progress: Fraction of the current attempt done, 0 to 1.
        code: Why it ended so, "" unless rejected, failed, dead or withdrawn.
        reason: One sentence for a person, "" where there is no code.
        object_key: Where the stored ciphertext of the study lies.
        object_bytes: Its length in bytes.
        header: The ``StudyHeader`` as the sender sent it, sealed; b"" at the sender.
        result_key: Where the encrypted result bundle lies, "" unless done (or rejected with a
            report).
        result_bytes: Length of the result's ciphertext in bytes.
        result_header: The ``ResultHeader``, sealed; b"" unless there is a result.
        lease_expires_at: When the current attempt may be taken over, None unless running.
        patient: The patient's pseudonym as the sender made it, "" for none.
        subject_key_id: The key under which the headers are sealed; destroying it erases the job.
        key_id: The worker's key that the study's own key is encrypted for now.
        rewrapped_dek: The study's own key under that one, sealed; b"" while it is the key that the
            sender chose.
        sealed_label: ``StudyHeader.sealed_label``; b"" in the ledger.
        made_with: Fingerprint of the models that the current attempt's worker serves; "" when it
            is not known, or changed meanwhile, and at the sender.
        trace: The call that brought the study, as W3C ``traceparent``; None when nobody traces it,
            and at the sender.
    """

    id: str
    tenant: str
    upload_id: str
    priority: Priority
    model: str
    state: JobState
    attempt: int
    stage: str
    progress: float
    code: str
    reason: str
    object_key: str
    object_bytes: int
    header: bytes
    result_key: str
    result_bytes: int
    result_header: bytes
    created_at: datetime
    updated_at: datetime
    lease_expires_at: datetime | None
    patient: str = ""
    subject_key_id: str = ""
    key_id: str = ""
    rewrapped_dek: bytes = b""
    sealed_label: bytes = b""
    made_with: str = ""
    trace: str | None = None

    @property
    def finished(self) -> bool:
        """Whether no further change can come."""
        return self.state in TERMINAL_STATES

    @property
    def withdrawn(self) -> bool:
        """Whether study and result are gone for good: erased, or kept for their time."""
        return self.code in WITHDRAWN_CODES
