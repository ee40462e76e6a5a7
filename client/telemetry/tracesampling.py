"""Decides which traces are recorded: once, where a trace begins, and for all who join it.

no parent ──ratio──▶ recorded │ not          parent ──as it says, so many a second──▶ recorded │ not
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, SpanKind, TraceState
    from opentelemetry.util.types import Attributes

__all__ = ("AtMost", "sampler")


class AtMost(Sampler):
    """Records so many a second and no more; a second's worth may come at once.

    Whoever calls us may ask for a trace of every call. What that costs is bounded here.

    Args:
        per_s: Traces a second.
        clock: Seconds, monotonic.
    """

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._clock = clock
        self._left = per_s
        self._at = clock()

    def should_sample(  # noqa: PLR0917 - the library's signature
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """See ``Sampler.should_sample``."""
        now = self._clock()
        self._left = min(self._per_s, self._left + (now - self._at) * self._per_s)
        self._at = now
        taken = self._left >= 1.0
        self._left -= taken
        chosen = ALWAYS_ON if taken else ALWAYS_OFF
        return chosen.should_sample(parent_context, trace_id, name, kind, attributes, links)

    def get_description(self) -> str:
        """See ``Sampler.get_description``."""
        return f"AtMost({self._per_s:g}/s)"


def sampler(ratio: float, most_joined_per_s: float | None) -> Sampler:
    """Return what decides for a process.

    Args:
        ratio: Part of the traces that begin here which is recorded, 0 to 1.
        most_joined_per_s: Traces of others that are recorded in a second, where the others are not
            ours; None: all that they ask for.
    """
    joined = ALWAYS_ON if most_joined_per_s is None else AtMost(most_joined_per_s)
    return ParentBased(TraceIdRatioBased(ratio), remote_parent_sampled=joined)
