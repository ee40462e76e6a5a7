"""One sender's connection to a gateway: calls, streams, and trying again what may heal."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.access.principal import REASON_KEY, TOKEN_KEY
from client.crypto.keydirectory import TlsFiles
from client.crypto.privatefiles import read_private
from client.errors import Busy, ConfigurationError, Transient
from client.ingest.messages import encoded
from client.ingest.statuses import error_of
from client.limits import RESULT, TransportLimits
from client.proto import ingest_pb2, ingest_pb2_grpc
from client.telemetry.traces import trace_metadata

__all__ = ("GatewayConnection", "SenderSettings")

T = TypeVar("T")
_SUBMIT = "/hounsfield.ingest.v1.Ingest/SubmitStudy"
_END_LOOKS = 25
_END_LOOK_S = 0.01
_CHANNEL = (
    ("grpc.max_receive_message_length", TransportLimits().max_message_bytes),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.keepalive_time_ms", 300_000),
)


@dataclass(frozen=True, slots=True)
class SenderSettings:
    """How a sender calls a gateway.

    Attributes:
        address: ``host:port``; the gateway's certificate must be for that host.
        tenant: Who we are, as our certificate says.
        tls: Our certificate, and the CA that signs gateways' certificates.
        result_keys: Our keyring; results are encrypted for its newest key.
        pseudonym_key: Our key for naming patients.
        trusted_worker_keys: Ids of the keys that studies may be encrypted for; empty trusts
            whatever the gateway names, as its certificate vouches for it.
        token: Bearer token that says who we are, besides the certificate; "" for none.
        token_file: File with that token, read anew for each call; None for none.
        break_glass_reason: Why we break the glass; "" when we do not.
        attempts: Tries of one call, or of one upload.
        backoff_s: First pause between tries; it doubles, with jitter.
        max_backoff_s: Longest pause that is not asked for by the gateway.
        call_timeout_s: Longest wait for a short answer.
        stall_timeout_s: Longest wait for room to send more, or for the next piece of a result.
        max_result_bytes: Largest result that memory is given to.
    """

    address: str
    tenant: str
    tls: TlsFiles
    result_keys: Path
    pseudonym_key: Path
    trusted_worker_keys: tuple[str, ...] = ()
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    break_glass_reason: str = ""
    attempts: int = 8
    backoff_s: float = 0.25
    max_backoff_s: float = 10.0
    call_timeout_s: float = 20.0
    stall_timeout_s: float = 60.0
    max_result_bytes: int = RESULT.max_bytes


class GatewayConnection:
    """A channel and its stub; every error of gRPC leaves here as one of ours."""

    def __init__(self, settings: SenderSettings) -> None:
        self._settings = settings
        self._channel: Any = None
        self._stub: Any = None
        self._submit: Any = None

    async def __aenter__(self) -> Self:
        """Make the channel; the first call connects.

        Raises:
            ConfigurationError: A certificate or key is missing.
        """
        tls = self._settings.tls
        try:
            authority, certificate = tls.authority.read_bytes(), tls.certificate.read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"Cannot read {error.filename}: make certificates with `hounsfield keys new`."
            ) from error
        credentials = grpc.ssl_channel_credentials(
            authority, read_private(tls.private_key), certificate
        )
        self._channel = grpc.aio.secure_channel(self._settings.address, credentials, _CHANNEL)
        self._stub = ingest_pb2_grpc.IngestStub(self._channel)  # type: ignore[no-untyped-call]
        self._submit = self._channel.stream_unary(
            _SUBMIT,
            request_serializer=encoded,
            response_deserializer=ingest_pb2.SubmitStudyResponse.FromString,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the channel."""
        await self._channel.close()

    async def is_ready(self) -> bool:
        """Return whether the gateway takes studies now."""
        check: Any = health_pb2_grpc.HealthStub(self._channel)
        try:
            answer = await check.Check(health_pb2.HealthCheckRequest(service="ready"), timeout=5)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def call(self, method: str, request: Any) -> Any:
        """Make a short call, again and again while its failure may heal."""

        async def once() -> Any:
            with _translated():
                return await getattr(self._stub, method)(
                    request,
                    timeout=self._settings.call_timeout_s,
                    metadata=await self._metadata(),
                )

        return await self.tried(once)

    async def stream(
        self, method: str, request: Any, timeout_s: float | None = None
    ) -> AsyncGenerator[Any, None]:
        """Yield what a server stream sends.

        Args:
            method: Name of the RPC.
            request: Its request.
            timeout_s: Longest silence; None allows any.
        """
        call = getattr(self._stub, method)(request, metadata=await self._metadata())
        try:
            with _translated():
                while True:
                    async with asyncio.timeout(timeout_s):
                        message = await call.read()
                    if message is grpc.aio.EOF:
                        return
                    yield message
        finally:
            call.cancel()

    async def upload(self, requests: AsyncIterator[ingest_pb2.SubmitStudyRequest]) -> Any:
        """Send a client stream to SubmitStudy; an error of ``requests`` breaks the call off."""
        call = self._submit(metadata=(*await self._metadata(), *trace_metadata()))
        try:
            with _translated():
                try:
                    async for request in requests:
                        async with asyncio.timeout(self._settings.stall_timeout_s):
                            await call.write(request)
                    await call.done_writing()
                except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
                    # The gateway may end the call before everything is sent: it refuses the study,
                    # or an earlier try got through.
                    await _raise_true_end(call)
                async with asyncio.timeout(self._settings.stall_timeout_s):
                    return await call
        finally:
            call.cancel()

    async def _metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what says who we are, for one call.

        Raises:
            ConfigurationError: The token's file cannot be read.
        """
        settings = self._settings
        token = settings.token
        if settings.token_file is not None:
            token = (await asyncio.to_thread(read_private, settings.token_file)).decode().strip()
        shown = [(TOKEN_KEY, f"Bearer {token}")] if token else []
        if settings.break_glass_reason:
            shown.append((REASON_KEY, quote(settings.break_glass_reason)))
        return tuple(shown)

    async def tried(self, once: Callable[[], Awaitable[T]]) -> T:
        """Return what ``once`` returns, calling it again while its failure may heal."""
        failures = 0
        while True:
            try:
                return await once()
            except Transient as error:
                failures += 1
                await self.pause(error, failures)

    async def pause(self, error: Transient, failures: int) -> None:
        """Wait before the next try, or give up by raising ``error``."""
        if failures >= self._settings.attempts:
            raise error
        asked_s = error.retry_after_s if isinstance(error, Busy) else 0.0
        grown_s = self._settings.backoff_s * 2 ** (failures - 1)
        jitter = random.uniform(0.5, 1.0)  # noqa: S311 - spreads senders, keeps no secret
        await asyncio.sleep(asked_s + jitter * min(grown_s, self._settings.max_backoff_s))


async def _raise_true_end(call: Any) -> None:
    """Raise what the gateway said about a call that it ended, unless it said OK.

    A write to an ended call fails with INTERNAL, and gRPC learns (or forgets) the call's own
    status around the same moment.
    """
    for _ in range(_END_LOOKS):
        code = await call.code()
        if code is grpc.StatusCode.OK:
            return
        if code is not grpc.StatusCode.INTERNAL:
            raise grpc.aio.AioRpcError(
                code,
                await call.initial_metadata(),
                await call.trailing_metadata(),
                details=await call.details(),
            )
        await asyncio.sleep(_END_LOOK_S)
    raise Transient("The gateway ended the upload, and why was lost on the way.")


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise error_of(error) from error
    except TimeoutError as error:
        raise Transient("The gateway stalled: it neither took nor sent anything.") from error
