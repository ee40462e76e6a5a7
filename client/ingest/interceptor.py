"""What every ingest call goes through before and after the service handles it.

    read the request ▶ identify ▶ authorise ▶ validate ▶ handle ▶ audit, durable ▶ answer

Refusals are audited too. Only what the system itself was too full or too broken for is not: it
told nothing and changed nothing, and the same call comes again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError

from client.access.identity import Authenticator
from client.access.principal import Principal
from client.access.rules import authorise
from client.audittrail import AuditEntry, Outcome
from client.discretion import path_of
from client.errors import AccessDenied, Busy, ClientError, NotFound, Rejected, Transient
from client.ingest.messages import Undecodable, check, encoded
from client.ingest.statuses import status_of
from client.jobs import Actor
from client.ledger.audit import SYSTEM_TENANT
from client.limits import ServiceLimits
from client.telemetry.metrics import GatewayMetrics

__all__ = ("AuditTrail", "IngestInterceptor")

_LOG = logging.getLogger(__name__)
_SERVICE = "/hounsfield.ingest.v1.Ingest/"
_CHUNKED = "FetchResult"
_UPLOAD = "SubmitStudy"
_STRANGER = Actor("certificate without a tenant")

Context = grpc.aio.ServicerContext[Any, Any]


class AuditTrail(Protocol):
    """Where it is written down who did what; the ledger."""

    async def record(self, tenant: str, actor: Actor, entry: AuditEntry) -> object:
        """Write one entry; it is durable when this returns."""


class IngestInterceptor(grpc.aio.ServerInterceptor):
    """Lets in who may come in, writes down what they did, turns every error into its status.

    Handlers get the caller where gRPC would give them its context: they know nothing of gRPC.

    Args:
        authenticator: Finds out who calls.
        trail: Where calls are written down.
        limits: How many calls of one tenant there may be, and how long a request may take to come.
        metrics: Where calls and their bytes are counted.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        trail: AuditTrail,
        limits: ServiceLimits,
        metrics: GatewayMetrics | None = None,
    ) -> None:
        self._authenticator = authenticator
        self._trail = trail
        self._limits = limits
        self._metrics = metrics or GatewayMetrics()
        self._calls: dict[str, int] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the method's handler, wrapped.

        Every handler becomes one that reads its request itself: gRPC has no time limit for a
        request that never comes, and would keep its place for it.
        """
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(_SERVICE):
            return handler
        rpc = method.removeprefix(_SERVICE)
        codecs = self._codecs(handler, rpc)
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(
                self._taking(handler.stream_unary, rpc), *codecs
            )
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._telling(handler.unary_stream, rpc), *codecs
            )
        return grpc.stream_unary_rpc_method_handler(
            self._answering(handler.unary_unary, rpc), *codecs
        )

    def _codecs(
        self, handler: Any, rpc: str
    ) -> tuple[Callable[[bytes], Any], Callable[..., bytes]]:
        """Return what reads requests and writes answers; the large ones are weighed there."""
        parse = _forgiving(handler.request_deserializer)
        if rpc == _UPLOAD:
            return _weighing(parse, self._metrics.received), handler.response_serializer
        if rpc == _CHUNKED:
            return parse, _weighed(encoded, self._metrics.sent)
        return parse, handler.response_serializer

    def _taking(self, behaviour: Any, rpc: str) -> Any:
        async def call(requests: AsyncIterator[Any], context: Context) -> Any:
            async with (
                self._answered(context, rpc),
                self._admitted(context, rpc) as caller,
                self._failures_recorded(caller, rpc),
            ):
                return await behaviour(requests, caller)

        return call

    def _answering(self, behaviour: Any, rpc: str) -> Any:
        async def call(requests: AsyncIterator[Any], context: Context) -> Any:
            async with self._answered(context, rpc), self._admitted(context, rpc) as caller:
                request = await self._read(requests)
                async with self._failures_recorded(caller, rpc, request):
                    check(request)
                    answer = await behaviour(request, caller)
                await self._record(caller, AuditEntry(f"call.{rpc}", job_id=_job_id(request)))
                return answer

        return call

    def _telling(self, behaviour: Any, rpc: str) -> Any:
        async def call(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
            async with self._answered(context, rpc), self._admitted(context, rpc) as caller:
                request = await self._read(requests)
                async with contextlib.AsyncExitStack() as stack:
                    async with self._failures_recorded(caller, rpc, request):
                        check(request)
                        answers = behaviour(request, caller)
                        await stack.enter_async_context(contextlib.aclosing(answers))
                        first = await anext(answers)
                    await self._record(caller, AuditEntry(f"call.{rpc}", job_id=_job_id(request)))
                    yield first
                    async for answer in answers:
                        yield answer

        return call

    @contextlib.asynccontextmanager
    async def _answered(self, context: Context, rpc: str) -> AsyncIterator[None]:
        """Count a call, and turn its error into a status."""
        with self._metrics.call(rpc) as call:
            try:
                yield
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                status = status_of(error)
                call.code = status.code.name
                if status.code is grpc.StatusCode.INTERNAL:
                    _LOG.error("%s failed: %s", rpc, path_of(error))
                elif isinstance(error, ClientError):
                    _LOG.info("%s answered %s: %s", rpc, status.code.name, error)
                await context.abort(status.code, status.details, status.metadata)

    async def _read(self, requests: AsyncIterator[Any]) -> Any:
        limit_s = self._limits.chunk_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                request = await anext(requests, None)
        except TimeoutError as error:
            raise Transient(f"No request came for {limit_s:g} s; send it again.") from error
        return Undecodable() if request is None else request

    @contextlib.asynccontextmanager
    async def _admitted(self, context: Context, rpc: str) -> AsyncIterator[Principal]:
        caller: Principal | None = None
        try:
            pem = next(iter(context.auth_context().get("x509_pem_cert", ())), None)
            caller = self._authenticator.certified(pem)
            with self._counted(caller.tenant):
                caller = await self._authenticator.identify(pem, _metadata(context))
                caller = authorise(caller, rpc)
                yield caller
        except AccessDenied as error:
            if caller is None or caller.role is None:
                await self._record_denial(caller, rpc, error)
            raise

    async def _record_denial(self, caller: Principal | None, rpc: str, error: AccessDenied) -> None:
        entry = AuditEntry(f"call.{rpc}", Outcome.DENIED, detail=str(error))
        tenant, actor = (caller.tenant, caller.actor) if caller else (SYSTEM_TENANT, _STRANGER)
        await self._trail.record(tenant, actor, entry)

    @contextlib.contextmanager
    def _counted(self, tenant: str) -> Iterator[None]:
        """Keep one tenant from taking every place there is."""
        count = self._calls.get(tenant, 0)
        if count >= self._limits.max_calls_per_tenant:
            raise Busy(
                f"This tenant makes {count} calls at this moment", self._limits.retry_after_s
            )
        self._calls[tenant] = count + 1
        try:
            yield
        finally:
            self._calls[tenant] -= 1
            if not self._calls[tenant]:
                del self._calls[tenant]

    @contextlib.asynccontextmanager
    async def _failures_recorded(
        self, caller: Principal, rpc: str, request: Any = None
    ) -> AsyncIterator[None]:
        try:
            yield
        except Transient:
            raise
        except Exception as error:
            outcome, code, told = _outcome(error)
            job_id = "" if isinstance(error, Rejected) else _job_id(request)
            await self._record(caller, AuditEntry(f"call.{rpc}", outcome, job_id, code, told))
            raise

    async def _record(self, caller: Principal, entry: AuditEntry) -> None:
        words = "; ".join(filter(None, (caller.glass_reason, entry.detail)))
        await self._trail.record(caller.tenant, caller.actor, replace(entry, detail=words))


def _metadata(context: Context) -> tuple[tuple[str, str | bytes], ...]:
    return tuple((key, value) for key, value in context.invocation_metadata() or ())


def _job_id(request: Any) -> str:
    return str(getattr(request, "job_id", ""))


def _outcome(error: Exception) -> tuple[Outcome, str, str]:
    """Return outcome, code and detail of a failure; foreign errors are not quoted."""
    if isinstance(error, NotFound):
        return Outcome.NOT_FOUND, "", ""
    if isinstance(error, AccessDenied):
        return Outcome.DENIED, "", str(error)
    if isinstance(error, Rejected):
        return Outcome.FAILED, error.code.value, error.reason
    told = str(error) if isinstance(error, ClientError) else type(error).__name__
    return Outcome.FAILED, "", told


def _forgiving(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def parse_or_mark(raw: bytes) -> Any:
        try:
            return parse(raw)
        except DecodeError:
            return Undecodable()

    return parse_or_mark


def _weighing(parse: Callable[[bytes], Any], tell: Callable[[bytes], None]) -> Callable[..., Any]:
    def parse_and_tell(raw: bytes) -> Any:
        tell(raw)
        return parse(raw)

    return parse_and_tell


def _weighed(write: Callable[..., bytes], tell: Callable[[bytes], None]) -> Callable[..., bytes]:
    def write_and_tell(message: Any) -> bytes:
        raw = write(message)
        tell(raw)
        return raw

    return write_and_tell
