"""Spans of a study's way: where they begin, what they may say, and how the next process joins.

    submit (sender) ─▶ SubmitStudy (gateway) ─▶ study (worker) ─▶ fetch ▶ read ▶ segment ▶ write ▶ …
             └ gRPC metadata ┘        └ row of the ledger ┘              └ infer ─▶ Triton's own
                                                                            └ gRPC metadata ┘

Nothing here needs OpenTelemetry until ``use`` is given one of its tracers: until then every call
returns at once. Only the W3C ``traceparent`` travels; baggage and ``tracestate``, in which others
may put anything, are neither read nor passed on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict, Unpack

from client.errors import Rejected

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

__all__ = (
    "PREFIX",
    "TRACEPARENT",
    "TRACEPARENT_CHARS",
    "Attributes",
    "current",
    "joining",
    "note",
    "span",
    "together",
    "trace_metadata",
    "traceparent",
    "use",
)

TRACEPARENT = "traceparent"
"""Name of the metadata; https://www.w3.org/TR/trace-context/ section 3.2."""
TRACEPARENT_CHARS = 55
"""Length of version 00, the only one that is understood."""
PREFIX = "hounsfield."
"""Of every attribute's name."""

_NOTHING = contextlib.nullcontext()
_tracer: Tracer | None = None


class Attributes(TypedDict, total=False):
    """Everything that a span may say of a study; there is no field for what a sender wrote."""

    job: str
    attempt: int
    priority: str
    model: str
    slices: int
    code: str


@contextlib.contextmanager
def use(tracer: Tracer) -> Iterator[None]:
    """Record the spans of this whole process with a tracer while the context lasts.

    A program that sends studies and has OpenTelemetry already passes a tracer of its own; then its
    spans and ours are of one trace.
    """
    global _tracer  # noqa: PLW0603  # like logging: one for the process, set at its edge
    before, _tracer = _tracer, tracer
    try:
        yield
    finally:
        _tracer = before


def span(name: str, **said: Unpack[Attributes]) -> contextlib.AbstractContextManager[None]:
    """Record one step below the step that is being recorded, if any.

    Its error is told by the exception's type alone, since a text may quote what it stumbled over.

    Args:
        name: Of the step; a constant.
        said: What it says.
    """
    return _NOTHING if _tracer is None else _recorded(_tracer, name, None, said)


def joining(
    name: str, parent: str | None, **said: Unpack[Attributes]
) -> contextlib.AbstractContextManager[None]:
    """Record the first step of this process.

    Args:
        name: Of the step; a constant.
        parent: The ``traceparent`` that came with the work. What is none, None too, begins a trace.
        said: What it says.
    """
    return _NOTHING if _tracer is None else _recorded(_tracer, name, _context(parent), said)


def note(**said: Unpack[Attributes]) -> None:
    """Say more of the step that is being recorded."""
    if (step := current()) is not None:
        step.set_attributes(_named(said))


def current() -> Span | None:
    """Return the step that is being recorded; None when none is."""
    if _tracer is None:
        return None
    from opentelemetry.trace import get_current_span

    step = get_current_span()
    return step if step.is_recording() else None


def together(steps: Sequence[Span | None]) -> contextlib.AbstractContextManager[None]:
    """Go on for several steps at once: below the first recorded one, to which the others link."""
    return _NOTHING if _tracer is None else _below_first([step for step in steps if step])


def traceparent() -> str | None:
    """Return what lets another process join the trace in work; None when nothing is traced.

    It also says when the trace is not to be recorded, so that this is decided once.
    """
    if _tracer is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get(TRACEPARENT)


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """Return the gRPC metadata of a call below the step that is being recorded; () for none."""
    if current() is None:
        return ()
    return ((TRACEPARENT, traceparent() or ""),)


@contextlib.contextmanager
def _recorded(
    tracer: Tracer, name: str, parent: Context | None, said: Attributes
) -> Iterator[None]:
    from opentelemetry.trace import StatusCode

    with tracer.start_as_current_span(
        name,
        context=parent,
        attributes=_named(said),
        record_exception=False,
        set_status_on_exception=False,
    ) as step:
        try:
            yield
        except BaseException as error:
            step.set_status(StatusCode.ERROR, type(error).__name__)
            if isinstance(error, Rejected):
                step.set_attribute(f"{PREFIX}code", error.code.value)
            raise


@contextlib.contextmanager
def _below_first(steps: Sequence[Span]) -> Iterator[None]:
    from opentelemetry.trace import INVALID_SPAN, use_span

    first = steps[0] if steps else INVALID_SPAN
    for other in steps[1:]:
        other.add_link(first.get_span_context())
    with use_span(first, record_exception=False, set_status_on_exception=False):
        yield


def _context(parent: str | None) -> Context:
    """Return a context with the parent in it; without one where it is not a ``traceparent``."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if parent is None or len(parent) != TRACEPARENT_CHARS:
        return Context()
    return TraceContextTextMapPropagator().extract({TRACEPARENT: parent}, Context())


def _named(said: Attributes) -> Mapping[str, str | int]:
    return {
        f"{PREFIX}{name}": value for name, value in said.items() if isinstance(value, str | int)
    }
