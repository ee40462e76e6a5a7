"""What tracing costs a study: nanoseconds of a span that is off, not sampled, recorded.

python -m loadtest.tracecost
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from client.telemetry.traceexport import SpanSink
from client.telemetry.traces import joining, span, trace_metadata, use

__all__ = ("main",)

_NOWHERE = "http://127.0.0.1:9"
_ROUNDS = 5
_TIMES = 5_000
_STEPS = 8
"""Spans of a study besides those of its requests: itself, and its stages, of which fetch is two."""
_REQUESTS = 46
"""Of 181 slices, four a request: the sample study."""


def main() -> None:
    """Print a table of the costs."""
    rows = [("off", _best(_request))]
    for name, ratio in (("on, not sampled", 0.0), ("on, recorded", 1.0)):
        sink = SpanSink(_NOWHERE, "cost", ratio, None)
        with use(sink.provider.get_tracer("cost")), joining("study", None):
            rows.append((name, _best(_request)))
        sink.close()
    sys.stdout.write(
        "| tracing | a request's span and metadata | a study of 181 slices |\n|---|---|---|\n"
    )
    for name, seconds in rows:
        study_ms = seconds * (_STEPS + _REQUESTS) * 1e3
        sys.stdout.write(f"| {name} | {seconds * 1e6:.1f} µs | {study_ms:.2f} ms |\n")


def _request() -> None:
    with span("infer", slices=4):
        trace_metadata()


def _best(work: Callable[[], None]) -> float:
    """Seconds of one call, in the best of some rounds."""
    found = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        for _ in range(_TIMES):
            work()
        found.append((time.perf_counter() - began) / _TIMES)
    return min(found)


if __name__ == "__main__":
    main()
