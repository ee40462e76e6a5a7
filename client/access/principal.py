"""Who makes a call: a tenant's certificate, or a person whose token came with it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from client.jobs import Actor

__all__ = ("REASON_KEY", "TOKEN_KEY", "Principal", "Role")

TOKEN_KEY = "authorization"  # noqa: S105 - the name of a header
"""Metadata of a call with ``Bearer <token>`` (RFC 6750, 2.1)."""
REASON_KEY = "break-glass-reason"
"""Metadata of a call with the reason for breaking the glass: UTF-8, percent-encoded."""


class Role(StrEnum):
    """What a caller is; ``client.access.rules`` says what each may do."""

    SENDER = "sender"
    """A machine that hands in studies and takes results out; a certificate alone is one."""
    CLINICIAN = "clinician"
    """Reads results."""
    ML_ENGINEER = "ml_engineer"
    """Sees how jobs fare, and no result."""
    OPERATOR = "operator"
    """Keeps the system running: cancels, retries, erases; reads no result."""
    AUDITOR = "auditor"
    """Reads the audit trail."""
    BREAK_GLASS = "break_glass"
    """Reads results in an emergency: every call needs a reason, which the audit trail keeps."""


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller who has shown who it is.

    Attributes:
        tenant: Whose data it may see; from the certificate.
        name: The token's subject, or ``certificate:<serial number, hexadecimal>``.
        roles: What it is.
        reason: Why it breaks the glass, "" when it gave none.
        role: The role that allowed this call; None before ``authorise``.
    """

    tenant: str
    name: str
    roles: frozenset[Role]
    reason: str = ""
    role: Role | None = None

    @property
    def actor(self) -> Actor:
        """This caller as the audit trail names it."""
        return Actor(self.name, self.role or "")

    @property
    def glass_reason(self) -> str:
        """Why the glass was broken for this call; "" when it was not."""
        return self.reason if self.role is Role.BREAK_GLASS else ""
