"""What an entry of the audit trail holds: in the ledger, on the wire, at an auditor."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

__all__ = ("AuditEntry", "AuditEvent", "Outcome")


class Outcome(StrEnum):
    """How what was asked for ended."""

    OK = "ok"
    DENIED = "denied"
    """The caller may not do it, or did not show who it is."""
    NOT_FOUND = "not_found"
    """There is no such thing, or it is another tenant's."""
    FAILED = "failed"
    """It was allowed and did not succeed."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Something that happened; no field may hold patient data.

    Attributes:
        action: What, such as ``call.FetchResult``.
        outcome: How it ended.
        job_id: The job it concerns, "" for none.
        code: Stable reason, "" for none.
        detail: For people.
    """

    action: str
    outcome: Outcome = Outcome.OK
    job_id: str = ""
    code: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One event of a tenant's chain; fields without a word here are those of ``AuditEntry``.

    Attributes:
        tenant: Whose chain; "" is the system's own.
        number: Its place, from 1, without a gap.
        at: When.
        actor: Who: a token's subject, a certificate or a process.
        role: The role that allowed it, "" for the system's own steps.
        state: The job's state after it, "" when it is not about a job's state.
        attempt: Number of the job's attempt then.
        hash: Over this event and the one before it, hexadecimal.
    """

    tenant: str
    number: int
    at: datetime
    actor: str
    role: str
    action: str
    outcome: str
    job_id: str
    state: str
    attempt: int
    code: str
    detail: str
    hash: str
