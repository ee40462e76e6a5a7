"""The one table of what each role may do; every RPC of the protocol has a row, or nobody may."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from client.access.principal import Principal, Role
from client.errors import AccessDenied
from client.limits import AccessLimits

__all__ = ("RULES", "authorise")

_LIMITS = AccessLimits()

_READS_JOBS = frozenset(Role)
_READS_RESULTS = frozenset((Role.SENDER, Role.CLINICIAN, Role.BREAK_GLASS))

RULES: Mapping[str, frozenset[Role]] = MappingProxyType(
    {
        "ListRecipientKeys": frozenset((Role.SENDER,)),
        "SubmitStudy": frozenset((Role.SENDER,)),
        "GetJob": _READS_JOBS,
        "ListJobs": _READS_JOBS,
        "WatchJob": _READS_RESULTS | {Role.OPERATOR},
        "FetchResult": _READS_RESULTS,
        "CancelJob": frozenset((Role.SENDER, Role.OPERATOR)),
        "RetryJob": frozenset((Role.SENDER, Role.OPERATOR)),
        "ErasePatient": frozenset((Role.OPERATOR,)),
        "ListEvents": frozenset((Role.AUDITOR,)),
    }
)
"""Which roles may make which call."""


def authorise(principal: Principal, rpc: str) -> Principal:
    """Return the caller with the role that allows the call.

    The glass is broken only when no other role of the caller allows it.

    Args:
        principal: Who calls.
        rpc: Name of the RPC, without its service.

    Raises:
        AccessDenied: No role allows it, or the glass is broken without a proper reason.
    """
    allowed = [role for role in Role if role in principal.roles & RULES.get(rpc, frozenset())]
    if not allowed:
        have = ", ".join(sorted(principal.roles))
        need = ", ".join(sorted(RULES.get(rpc, ())))
        raise AccessDenied(
            f"{rpc} needs one of the roles {need or '(none)'}; the caller is {have}."
        )
    if allowed == [Role.BREAK_GLASS]:
        _check_reason(principal.reason)
    return replace(principal, role=allowed[0])


def _check_reason(reason: str) -> None:
    shortest, longest = _LIMITS.min_reason_chars, _LIMITS.max_reason_chars
    if not shortest <= len(reason) <= longest or not reason.isprintable():
        raise AccessDenied(
            f"Breaking the glass needs a reason of {shortest} to {longest} printable characters in "
            f"the call's metadata `break-glass-reason`, got {len(reason)} characters."
        )
