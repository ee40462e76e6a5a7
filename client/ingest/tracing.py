"""Joins a study's upload to the trace of its sender.

call ──traceparent in its metadata──▶ span ▶ every other interceptor ▶ the handler
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from client.telemetry.traces import TRACEPARENT, joining

__all__ = ("TraceInterceptor",)

_SUBMIT = "SubmitStudy"
_METHOD = f"/hounsfield.ingest.v1.Ingest/{_SUBMIT}"


class TraceInterceptor(grpc.aio.ServerInterceptor):
    """Records each upload; to be the first of a server's interceptors.

    A ``traceparent`` that is malformed or too long is as good as none; of several, gRPC leaves the
    last.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the method's handler, that of SubmitStudy wrapped."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method != _METHOD:
            return handler
        told = dict(handler_call_details.invocation_metadata or ()).get(TRACEPARENT)
        parent = told if isinstance(told, str) else None

        async def call(requests: Any, context: Any) -> Any:
            with joining(_SUBMIT, parent):
                return await handler.stream_unary(requests, context)

        return grpc.stream_unary_rpc_method_handler(
            call, handler.request_deserializer, handler.response_serializer
        )
