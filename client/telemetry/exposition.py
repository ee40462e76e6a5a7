"""Shows a process's metrics to Prometheus over HTTP, from a thread of its own.

Prometheus ──GET /metrics──▶ thread ──▶ registry

A scrape is answered also while the event loop is busy. There is neither TLS nor a password: listen
where only Prometheus can reach it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from wsgiref.simple_server import WSGIServer

import prometheus_client
from prometheus_client import CollectorRegistry, ProcessCollector

from client.addresses import host_and_port
from client.errors import ConfigurationError

__all__ = ("make_registry", "shown")


def make_registry() -> CollectorRegistry:
    """Return a registry that shows this process's memory, CPU time and open files already."""
    # They double the counters' series, and nobody asks for them.
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


@contextlib.asynccontextmanager
async def shown(registry: CollectorRegistry, listen: str) -> AsyncIterator[int]:
    """Answer scrapes while the context lasts.

    Args:
        registry: What to show.
        listen: ``host:port``; port 0 takes a free one; "" shows nothing.

    Yields:
        The port; 0 where nothing is shown.

    Raises:
        ConfigurationError: The address is none, or is taken.
    """
    if not listen:
        yield 0
        return
    host, port = host_and_port(listen)
    try:
        server, thread = prometheus_client.start_http_server(port, host, registry)
    except OSError as error:
        raise ConfigurationError(
            f"Cannot show metrics on {listen}: it is taken, or is not an address of this machine."
        ) from error
    try:
        yield server.server_port
    finally:
        await asyncio.to_thread(_close, server, thread)


def _close(server: WSGIServer, thread: threading.Thread) -> None:
    server.shutdown()
    server.server_close()
    thread.join()
