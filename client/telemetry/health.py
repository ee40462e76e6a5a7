"""Answers gRPC health checks of a process that serves nothing else: live ("") and ready.

probe ──grpc.health.v1──▶ event loop ──▶ "": it turns │ "ready": what the last look found

Live is answered by the event loop itself: where it does not turn, no answer comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from client.discretion import place_of
from client.errors import ClientError, ConfigurationError

__all__ = ("READY", "bind", "serve_health")

_LOG = logging.getLogger(__name__)
READY = "ready"
"""Name that readiness is asked by; "" asks whether the process is alive."""
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_OPTIONS = (("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 1 << 16))


@contextlib.asynccontextmanager
async def serve_health(
    listen: str,
    check: Callable[[], Awaitable[None]],
    *,
    name: str = READY,
    interval_s: float = 5.0,
    timeout_s: float = 10.0,
) -> AsyncIterator[int]:
    """Answer health checks while the context lasts.

    Args:
        listen: ``host:port``, without TLS; port 0 takes a free one; "" answers nowhere.
        check: Returns when the process is ready for work, raises ``ClientError`` when not.
        name: What it is asked by, where it tells of something else than this process.
        interval_s: Between two looks.
        timeout_s: A look that takes longer means not ready.

    Yields:
        The port; 0 where nothing is answered.

    Raises:
        ConfigurationError: The address is none, or is taken.
    """
    if not listen:
        yield 0
        return
    checks = health.aio.HealthServicer()
    server = grpc.aio.server(options=_OPTIONS)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    port = bind(server, listen)
    await checks.set(name, _NOT_SERVING)
    await server.start()
    looking = asyncio.create_task(_look(checks, name, check, interval_s, timeout_s))
    try:
        yield port
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        await checks.enter_graceful_shutdown()
        await server.stop(None)


def bind(
    server: grpc.aio.Server, listen: str, credentials: grpc.ServerCredentials | None = None
) -> int:
    """Have a server listen; return the port it took.

    Args:
        server: Not started yet.
        listen: ``host:port``; port 0 takes a free one.
        credentials: None: without TLS.

    Raises:
        ConfigurationError: The address is none, or is taken.
    """
    try:
        if credentials is None:
            return server.add_insecure_port(listen)
        return server.add_secure_port(listen, credentials)
    except RuntimeError as error:
        raise ConfigurationError(
            f"Cannot listen on {listen}: it is taken, or is not an address of this machine."
        ) from error


async def _look(
    checks: health.aio.HealthServicer,
    name: str,
    check: Callable[[], Awaitable[None]],
    interval_s: float,
    timeout_s: float,
) -> None:
    told = "nothing was looked at yet"
    while True:
        wrong = await _wrong(check, timeout_s)
        if wrong != told:
            _LOG.info("%s: %s", name, wrong or "serving")
            told = wrong
        await checks.set(name, _NOT_SERVING if wrong else _SERVING)
        await asyncio.sleep(interval_s)


async def _wrong(check: Callable[[], Awaitable[None]], timeout_s: float) -> str:
    """What keeps the process from being ready; "" when nothing does."""
    try:
        async with asyncio.timeout(timeout_s):
            await check()
    except TimeoutError:
        return f"a part of the system has not answered for {timeout_s:g} s"
    except ClientError as error:
        return str(error)
    except Exception as error:
        return place_of(error)
    return ""
