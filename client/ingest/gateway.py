"""Serves the ingest service over mutual TLS, with health checks and every transport limit.

sender ──TLS, client certificate──▶ interceptor ──▶ IngestService ──▶ store, ledger, queue
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from client.access.identity import AccessSettings, Authenticator
from client.crypto.keydirectory import TlsFiles
from client.crypto.keyring import load_public_keys
from client.errors import ClientError
from client.ingest.intake import Behind
from client.ingest.interceptor import IngestInterceptor
from client.ingest.servertls import ServerTls
from client.ingest.service import IngestService
from client.ingest.tracing import TraceInterceptor
from client.limits import ServiceLimits, TransportLimits
from client.proto import ingest_pb2_grpc
from client.telemetry.health import READY, bind
from client.telemetry.metrics import GatewayMetrics

__all__ = ("Gateway", "GatewaySettings", "serve")

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_WINDOW_BYTES = 1 << 20
"""Of one call that may be under way: at a round trip of 50 ms an upload reaches 20 MB/s."""
_IDENTITY_ONLY = 1  # compression bit set: ciphertext does not compress, and bombs do


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """How a gateway serves.

    Attributes:
        listen: ``host:port``; port 0 takes a free one.
        tls: Its certificate, and the CA that signs senders' certificates; followed when renewed.
        access: How callers show who they are.
        health_listen: ``host:port`` of a second listener that only answers health checks, without
            TLS, for probes that cannot show a certificate; "" for none.
        limits: Bounds of the service itself.
        transport: Bounds that gRPC keeps before the service sees anything.
        ready_interval_s: Between two looks at whether the gateway is ready.
        grace_s: Time that calls get to end when the gateway stops.
    """

    listen: str
    tls: TlsFiles
    access: AccessSettings
    health_listen: str = ""
    limits: ServiceLimits = field(default_factory=ServiceLimits)
    transport: TransportLimits = field(default_factory=TransportLimits)
    ready_interval_s: float = 2.0
    grace_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that serves; ports are the ones it really took, 0 when there is no listener."""

    port: int
    health_port: int


@contextlib.asynccontextmanager
async def serve(
    settings: GatewaySettings, behind: Behind, metrics: GatewayMetrics | None = None
) -> AsyncIterator[Gateway]:
    """Serve while the context lasts, then let running calls end.

    Args:
        settings: How.
        behind: What stands behind it, connected.
        metrics: Where calls are counted.

    Raises:
        ConfigurationError: A certificate is missing, an address is taken, or the revocation list
            or the token issuer's keys are damaged.
    """
    authenticator = Authenticator(settings.access)
    await authenticator.load()
    tls = await asyncio.to_thread(ServerTls, settings.tls)
    interceptor = IngestInterceptor(authenticator, behind.ledger, settings.limits, metrics)
    service = IngestService(behind, settings.limits)
    checks = health.aio.HealthServicer()
    async with contextlib.AsyncExitStack() as stack:
        main = _server(settings.transport, TraceInterceptor(), interceptor)
        ingest_pb2_grpc.add_IngestServicer_to_server(service, main)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(checks, main)
        port = bind(main, settings.listen, tls.credentials())
        health_port = 0
        servers = [main]
        if settings.health_listen:
            probes = _server(settings.transport)
            health_pb2_grpc.add_HealthServicer_to_server(checks, probes)
            health_port = bind(probes, settings.health_listen)
            servers.append(probes)
        for server in servers:
            await server.start()
            stack.push_async_callback(server.stop, settings.grace_s)
        stack.push_async_callback(checks.enter_graceful_shutdown)
        await _tell_readiness(checks, behind)
        readiness = _watch_readiness(checks, behind, settings.ready_interval_s)
        for watch in (readiness, tls.run(), service.listen()):
            stack.callback(asyncio.create_task(watch).cancel)
        yield Gateway(port, health_port)


def _server(limits: TransportLimits, *interceptors: grpc.aio.ServerInterceptor) -> grpc.aio.Server:
    return grpc.aio.server(
        interceptors=interceptors,
        options=_options(limits),
        maximum_concurrent_rpcs=limits.max_calls,
    )


def _options(limits: TransportLimits) -> tuple[tuple[str, int], ...]:
    return (
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", limits.max_message_bytes),
        # Between a soft and a hard limit gRPC refuses at random: one limit says the same always.
        ("grpc.max_metadata_size", limits.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", limits.max_metadata_bytes),
        ("grpc.max_concurrent_streams", limits.max_calls_per_connection),
        ("grpc.compression_enabled_algorithms_bitset", _IDENTITY_ONLY),
        ("grpc.server_handshake_timeout_ms", _ms(limits.handshake_timeout_s)),
        ("grpc.max_connection_idle_ms", _ms(limits.max_idle_s)),
        ("grpc.max_connection_age_ms", _ms(limits.max_age_s)),
        ("grpc.max_connection_age_grace_ms", _ms(limits.max_age_grace_s)),
        ("grpc.keepalive_time_ms", _ms(limits.keepalive_s)),
        ("grpc.keepalive_timeout_ms", _ms(limits.keepalive_timeout_s)),
        # Else gRPC lets each upload's window grow: much memory when the store is slow.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", _WINDOW_BYTES),
        # Two gateways on one port would otherwise share its connections without a word.
        ("grpc.so_reuseport", 0),
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


async def _watch_readiness(
    checks: health.aio.HealthServicer, behind: Behind, interval_s: float
) -> None:
    while True:
        await asyncio.sleep(interval_s)
        await _tell_readiness(checks, behind)


async def _tell_readiness(checks: health.aio.HealthServicer, behind: Behind) -> None:
    """Ready means: ledger and vault answer, and there is a key to encrypt for."""
    try:
        await behind.ledger.ping()
        await behind.vault.ping()
        ready = bool(await asyncio.to_thread(load_public_keys, behind.worker_keys))
    except ClientError:
        ready = False
    await checks.set(READY, _SERVING if ready else _NOT_SERVING)
