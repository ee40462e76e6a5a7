"""The one place where Triton's answers become our errors, by status code."""

from __future__ import annotations

import grpc

from client.errors import ClientError, ConfigurationError, Transient

__all__ = ("RETRIED", "status_of", "translate")

RETRIED = frozenset(("UNAVAILABLE", "NOT_FOUND", "INTERNAL", "CANCELLED", "UNKNOWN"))
"""A model being reloaded, a server being restarted, a dead model that the watchdog will revive."""

TRANSIENT = RETRIED - {"NOT_FOUND"} | {"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED"}


def status_of(error: BaseException) -> str:
    """Name of the status of a ``grpc`` or ``tritonclient`` error, ``UNKNOWN`` where it has none."""
    if isinstance(error, grpc.aio.AioRpcError):
        return str(error.code().name)
    status = getattr(error, "status", lambda: None)()
    return str(status or "UNKNOWN").rpartition(".")[2]


def translate(error: Exception, what: str) -> ClientError:
    """Chooses the error to raise for a failed call.

    Args:
        error: What ``grpc`` or ``tritonclient`` raised.
        what: The call, for the message: "inference with brain_mr".

    Returns:
        ``Transient`` if the same call may succeed later; ``ConfigurationError`` if the server has
        no such model, refuses the tensors, or does not know the caller.
    """
    status = status_of(error)
    if status in TRANSIENT:
        return Transient(f"Triton could not do {what} now ({status}).")
    if status == "NOT_FOUND":
        return ConfigurationError(f"Triton does not serve what {what} needs ({status}).")
    return ConfigurationError(
        f"Triton refused {what} ({status}): the model in service and its description disagree."
    )
