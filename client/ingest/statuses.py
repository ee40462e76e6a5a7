"""The one table between our errors and gRPC's status codes, read in both directions.

gateway: ClientError ──status_of──▶ code, details, trailing metadata ──error_of──▶ sender
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from client.errors import (
    AccessDenied,
    Busy,
    ClientError,
    ConfigurationError,
    Conflict,
    LeaseLost,
    NotFound,
    RefusalCode,
    Rejected,
    Transient,
    Unauthenticated,
    WrongState,
)

__all__ = ("REFUSAL_CODE_KEY", "RETRY_AFTER_KEY", "Status", "error_of", "status_of")

RETRY_AFTER_KEY = "retry-after-s"
"""Trailing metadata of RESOURCE_EXHAUSTED: seconds to wait, a decimal number."""
REFUSAL_CODE_KEY = "refusal-code"
"""Trailing metadata of INVALID_ARGUMENT: a stable code of ``RefusalCode``."""

_DEFAULT_RETRY_S = 1.0
_LONGEST_RETRY_S = 300.0
_INTERNAL = "The gateway failed on this request; its log says why."

# The first row that fits counts, so a subclass stands above its base.
_STATUSES: tuple[tuple[type[ClientError], grpc.StatusCode], ...] = (
    (Busy, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (Transient, grpc.StatusCode.UNAVAILABLE),
    (Rejected, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (AccessDenied, grpc.StatusCode.PERMISSION_DENIED),
    (WrongState, grpc.StatusCode.FAILED_PRECONDITION),
    (Conflict, grpc.StatusCode.ALREADY_EXISTS),
    (LeaseLost, grpc.StatusCode.ABORTED),
)
_ERRORS: dict[grpc.StatusCode, type[ClientError]] = {
    grpc.StatusCode.UNAVAILABLE: Transient,
    grpc.StatusCode.DEADLINE_EXCEEDED: Transient,
    grpc.StatusCode.CANCELLED: Transient,
    grpc.StatusCode.ABORTED: Transient,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.PERMISSION_DENIED: AccessDenied,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.FAILED_PRECONDITION: WrongState,
    grpc.StatusCode.ALREADY_EXISTS: Conflict,
    grpc.StatusCode.UNIMPLEMENTED: ConfigurationError,
}


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ends on the wire."""

    code: grpc.StatusCode
    details: str
    metadata: tuple[tuple[str, str], ...] = ()


def status_of(error: Exception) -> Status:
    """Return how an error is told to a sender; what we did not foresee is told without detail."""
    for kind, code in _STATUSES:
        if isinstance(error, kind):
            return Status(code, str(error), _metadata(error))
    return Status(grpc.StatusCode.INTERNAL, _INTERNAL)


def _metadata(error: ClientError) -> tuple[tuple[str, str], ...]:
    if isinstance(error, Busy):
        return ((RETRY_AFTER_KEY, f"{error.retry_after_s:g}"),)
    if isinstance(error, Rejected):
        return ((REFUSAL_CODE_KEY, error.code.value),)
    return ()


def error_of(error: grpc.aio.AioRpcError) -> ClientError:
    """Return our error for a call that ended badly."""
    code, details = error.code(), error.details() or error.code().name
    metadata = dict(error.trailing_metadata() or ())
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Busy(details, _seconds(metadata.get(RETRY_AFTER_KEY)))
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        refusal = _refusal(metadata.get(REFUSAL_CODE_KEY))
        return Rejected(refusal, details.removeprefix(f"{refusal}: "))
    return _ERRORS.get(code, ClientError)(f"The gateway answered {code.name}: {details}")


def _seconds(value: str | bytes | None) -> float:
    try:
        asked_s = float(value) if value is not None else _DEFAULT_RETRY_S
    except ValueError:
        return _DEFAULT_RETRY_S
    return min(max(0.0, asked_s), _LONGEST_RETRY_S)


def _refusal(value: str | bytes | None) -> RefusalCode:
    try:
        return RefusalCode(str(value))
    except ValueError:
        return RefusalCode.INVALID_REQUEST
