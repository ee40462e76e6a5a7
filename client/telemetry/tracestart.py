"""Switches tracing on in a process, where its settings name a collector."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from client.errors import ConfigurationError
from client.settings import Settings
from client.telemetry.traces import use
from client.version import SOFTWARE_VERSION

__all__ = ("MOST_SENDERS_TRACES_PER_S", "tracing")

MOST_SENDERS_TRACES_PER_S = 10.0
"""Of the traces that senders ask for, so many are recorded by a gateway."""


@contextlib.contextmanager
def tracing(
    settings: Settings, service: str, *, most_joined_per_s: float | None = None
) -> Iterator[None]:
    """Record and send this process's spans while the context lasts; leaving takes 2 s at most.

    Args:
        settings: ``otlp_endpoint`` ("" records nothing) and ``trace_ratio``.
        service: What this process is: gateway, worker, sender.
        most_joined_per_s: Traces a second that others, who are not ours, may have recorded; None:
            all that they ask for.

    Raises:
        ConfigurationError: The endpoint is none, or OpenTelemetry is not installed.
    """
    endpoint = settings.otlp_endpoint
    if not endpoint:
        yield
        return
    if not endpoint.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"HOUNSFIELD_OTLP_ENDPOINT: expected http://host:4318 or https://…, got {endpoint!r}."
        )
    try:
        from client.telemetry.traceexport import SpanSink
    except ImportError as error:
        raise ConfigurationError(
            "Spans need OpenTelemetry: `pip install opentelemetry-sdk "
            "opentelemetry-exporter-otlp-proto-http`, or leave HOUNSFIELD_OTLP_ENDPOINT empty."
        ) from error
    sink = SpanSink(endpoint, service, settings.trace_ratio, most_joined_per_s)
    try:
        with use(sink.provider.get_tracer("hounsfield", SOFTWARE_VERSION)):
            yield
    finally:
        sink.close()
