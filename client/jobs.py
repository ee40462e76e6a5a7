"""What a job is: the one record that the gateway, the ledger, the worker and the sender share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

__all__ = ("TERMINAL_STATES", "Job", "JobState", "Priority")


class JobState(StrEnum):
    """Life of a job: queued -> running -> done | failed | rejected; unfinished -> cancelled."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"


TERMINAL_STATES = frozenset((JobState.DONE, JobState.FAILED, JobState.REJECTED, JobState.CANCELLED))


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
        code: Refusal or failure code, "" unless rejected or failed.
        reason: One sentence for a person, "" unless rejected or failed.
        object_key: Where the stored ciphertext of the study lies.
        object_bytes: Its length in bytes.
        header: The serialised ``StudyHeader`` as the sender sent it.
        result_key: Where the encrypted result bundle lies, "" unless done (or rejected with a
            report).
        result_bytes: Length of the result's ciphertext in bytes.
        result_header: The serialised ``ResultHeader``, b"" unless there is a result.
        lease_expires_at: When the current attempt may be taken over, None unless running.
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

    @property
    def finished(self) -> bool:
        """Whether no further change can come."""
        return self.state in TERMINAL_STATES
