"""Sends a process's spans to a collector by OTLP over HTTP, and never waits for it.

    span ends ──▶ bounded queue ──a thread, batches──▶ collector
                       └ full: dropped

A collector that is away costs its spans and one line in the log, nothing else.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from client.telemetry.tracesampling import sampler
from client.version import SOFTWARE_VERSION

__all__ = ("FLUSH_S", "TRACES_PATH", "SpanSink")

_LOG = logging.getLogger(__name__)
TRACES_PATH = "/v1/traces"
"""Where a collector takes spans; OTLP 1.x specification, "OTLP/HTTP Request"."""
FLUSH_S = 2.0
"""Longest time that the end of a process waits for its last spans to go."""
_EXPORT_TIMEOUT_S = 2.0
_EVERY_S = 1.0
_MOST_WAITING = 4096
_MOST_TOGETHER = 512


class SpanSink:
    """Where one process's spans go.

    Args:
        endpoint: The collector's address, without a path.
        service: What this process is.
        ratio: Part of the traces that begin here which is recorded, 0 to 1.
        most_joined_per_s: See ``tracesampling.sampler``.
    """

    def __init__(
        self, endpoint: str, service: str, ratio: float, most_joined_per_s: float | None
    ) -> None:
        # The library warns of every batch; ``_Telling`` once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self.provider = TracerProvider(
            sampler=sampler(ratio, most_joined_per_s),
            resource=_resource(service),
            shutdown_on_exit=False,
        )
        target = endpoint.rstrip("/") + TRACES_PATH
        self.provider.add_span_processor(
            BatchSpanProcessor(
                _Telling(OTLPSpanExporter(target, timeout=_EXPORT_TIMEOUT_S)),
                max_queue_size=_MOST_WAITING,
                schedule_delay_millis=_EVERY_S * 1000,
                max_export_batch_size=_MOST_TOGETHER,
            )
        )

    def close(self) -> None:
        """Send what waits, as far as that goes in ``FLUSH_S``."""
        ending = threading.Thread(target=self.provider.shutdown, name="last-spans", daemon=True)
        ending.start()
        ending.join(FLUSH_S)


class _Telling(SpanExporter):
    """Tells of a collector that does not take spans, once until it does."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._told = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        failed = result is not SpanExportResult.SUCCESS
        if failed and not self._told:
            _LOG.warning("the collector takes no spans; they are dropped until it does")
        self._told = failed
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _resource(service: str) -> Resource:
    return Resource(
        {
            "service.namespace": "hounsfield",
            "service.name": service,
            "service.version": SOFTWARE_VERSION,
            "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
        }
    )
