"""An OpenTelemetry collector of the tests: takes spans by OTLP over HTTP and keeps them.

protobuf (our processes) │ JSON (Triton) ──▶ SeenSpan
"""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

__all__ = ("Collector", "SeenSpan", "running_collector")


@dataclass(frozen=True)
class SeenSpan:
    """One span as it came.

    Attributes:
        service: ``service.name`` of its process.
        parent: Span id of its parent, "" for a root.
        links: Span ids that it links to.
        start_ns: Since the epoch.
        failed: The description of its error, None when it ended well.
    """

    service: str
    name: str
    trace: str
    span: str
    parent: str
    attributes: dict[str, Any]
    links: tuple[str, ...]
    start_ns: int
    end_ns: int
    failed: str | None


@dataclass
class Collector:
    """Where spans came in; ``raw`` is every request's body as it was."""

    endpoint: str = ""
    spans: list[SeenSpan] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def take(self, kind: str, body: bytes) -> None:
        """Keep what a request of this content type brought."""
        json_came = kind == "application/json"
        request = _from_json(body) if json_came else ExportTraceServiceRequest.FromString(body)
        found = [
            _seen(span, resources.resource)
            for resources in request.resource_spans
            for scope in resources.scope_spans
            for span in scope.spans
        ]
        with self.lock:
            self.raw.append(body)
            self.spans += found

    def named(self, name: str) -> list[SeenSpan]:
        """Return the spans of a name, in the order of their beginnings."""
        with self.lock:
            return sorted(
                (span for span in self.spans if span.name == name), key=lambda span: span.start_ns
            )

    def until(self, there: Callable[[Collector], bool], timeout_s: float = 30.0) -> None:
        """Return as soon as what is asked for has come."""
        deadline = time.monotonic() + timeout_s
        while not there(self):
            names = sorted({(span.service, span.name) for span in self.spans})
            assert time.monotonic() < deadline, f"did not come; there are {names}"
            time.sleep(0.05)

    def settle(self, quiet_s: float) -> None:
        """Return when nothing more has come for so long."""
        before = -1
        while len(self.raw) != before:
            before = len(self.raw)
            time.sleep(quiet_s)


@contextlib.contextmanager
def running_collector(port: int = 0) -> Iterator[Collector]:
    """Run one on this port, or on a free one."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces", self.path
            collector.take(self.headers["Content-Type"], body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    serving = Thread(target=server.serve_forever, daemon=True)
    serving.start()
    collector.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        serving.join()


def _from_json(body: bytes) -> ExportTraceServiceRequest:
    """Read OTLP's JSON, in which ids are hexadecimal where protobuf's own has base64."""

    def ids(found: dict[str, Any]) -> dict[str, Any]:
        for name in ("traceId", "spanId", "parentSpanId"):
            if name in found:
                found[name] = base64.b64encode(bytes.fromhex(found[name])).decode()
        return found

    return ParseDict(json.loads(body, object_hook=ids), ExportTraceServiceRequest())


def _seen(span: Any, resource: Any) -> SeenSpan:
    said = _plain(resource.attributes)
    return SeenSpan(
        service=str(said.get("service.name", "")),
        name=span.name,
        trace=span.trace_id.hex(),
        span=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        attributes=_plain(span.attributes),
        links=tuple(link.span_id.hex() for link in span.links),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        failed=span.status.message if span.status.code == 2 else None,
    )


def _plain(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
