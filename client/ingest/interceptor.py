"""What every ingest call goes through: the protocol's rules, and error translation."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from client.errors import ClientError
from client.ingest.messages import Undecodable, check
from client.ingest.statuses import status_of

__all__ = ("IngestInterceptor",)

_LOG = logging.getLogger(__name__)
_SERVICE = "/hounsfield.ingest.v1.Ingest/"


class IngestInterceptor(grpc.aio.ServerInterceptor):
    """Checks each unary request and turns every error into its status.

    Requests of a client stream are checked one by one where they are read.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the method's handler, wrapped."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(_SERVICE):
            return handler
        name = method.removeprefix(_SERVICE)
        codecs = (_forgiving(handler.request_deserializer), handler.response_serializer)
        if handler.request_streaming:
            wrapped = _answers_once(handler.stream_unary, name, checked=False)
            return grpc.stream_unary_rpc_method_handler(wrapped, *codecs)
        if handler.response_streaming:
            wrapped = _answers_often(handler.unary_stream, name)
            return grpc.unary_stream_rpc_method_handler(wrapped, *codecs)
        wrapped = _answers_once(handler.unary_unary, name, checked=True)
        return grpc.unary_unary_rpc_method_handler(wrapped, *codecs)


def _forgiving(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def parse_or_mark(raw: bytes) -> Any:
        try:
            return parse(raw)
        except DecodeError:
            return Undecodable()

    return parse_or_mark


def _answers_once(behaviour: Any, name: str, *, checked: bool) -> Any:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        async with _errors_told(context, name):
            if checked:
                check(request)
            return await behaviour(request, context)

    return call


def _answers_often(behaviour: Any, name: str) -> Any:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        async with _errors_told(context, name):
            check(request)
            async with contextlib.aclosing(behaviour(request, context)) as answers:
                async for answer in answers:
                    yield answer

    return call


@contextlib.asynccontextmanager
async def _errors_told(
    context: grpc.aio.ServicerContext[Any, Any], name: str
) -> AsyncIterator[None]:
    try:
        yield
    except grpc.aio.AbortError:
        raise
    except Exception as error:
        status = status_of(error)
        if status.code is grpc.StatusCode.INTERNAL:
            _LOG.exception("%s failed", name)
        elif isinstance(error, ClientError):
            _LOG.info("%s answered %s: %s", name, status.code.name, error)
        await context.abort(status.code, status.details, status.metadata)
