"""Learns how many slices to send, so that a server always has what it does next and no more.

Triton's statistics, once a second ─▶ slices that wait there ─▶ target of ``Slots``

What waits in Triton cannot be overtaken by a STAT study. Where nothing waits when the engine has
done something, it idles. So beside what it works on one request may wait, or more where the server
is done with them in a tenth of a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc import service_pb2_grpc as services

from client.triton.server import worker_headers
from client.triton.slots import Slots
from preprocess.spec import ModelSpec

__all__ = (
    "Backlog",
    "Reading",
    "allowed_slices",
    "next_target",
    "request_slices",
    "waited_s",
    "waiting_slices",
)

INTERVAL_S = 1.0
_TIMEOUT_S = 5.0
LEAST_REQUESTS = 2
MOST_WAIT_S = 0.1
REQUEST_S = 0.07
_DECREASE = 0.75


@dataclass(frozen=True)
class Reading:
    """A model's counters at one moment, since its start.

    Attributes:
        waited_ns: Time that requests have waited in its queue, summed over requests.
        requests: Requests that have left the queue.
        slices: Slices in them.
    """

    waited_ns: int
    requests: int
    slices: int


def waiting_slices(before: Reading, after: Reading, elapsed_s: float) -> float | None:
    """Slices that waited on average between two readings; None where nothing was done.

    Time waited in a period, over the period, is how many waited at a time (Little's law).
    """
    requests = after.requests - before.requests
    if requests <= 0 or elapsed_s <= 0:
        return None
    waiting = (after.waited_ns - before.waited_ns) / 1e9 / elapsed_s
    return waiting * (after.slices - before.slices) / requests


def waited_s(before: Sequence[Reading], after: Sequence[Reading]) -> float:
    """Seconds that a request waited in all queues together, on average between two readings."""
    total_s = 0.0
    for first, last in zip(before, after, strict=True):
        if (requests := last.requests - first.requests) > 0:
            total_s += (last.waited_ns - first.waited_ns) / 1e9 / requests
    return total_s


def request_slices(slices_per_s: float, most: int) -> int:
    """Slices of a request: few where the server is slow, for two requests are always with it.

    Args:
        slices_per_s: What the server does.
        most: Slices of a request at most.
    """
    return max(1, min(most, int(slices_per_s * REQUEST_S)))


def allowed_slices(slices_per_s: float, step: int) -> float:
    """Slices that may wait in a server: what it does in a tenth of a second, at least a request.

    Args:
        slices_per_s: What the server does.
        step: Slices of a request.
    """
    return max(step, slices_per_s * MOST_WAIT_S)


def next_target(target: int, waiting: float, allowed: float, step: int) -> int:
    """Fewer by a quarter when more wait than may, a request more when less than half of it do.

    Args:
        target: Slices sent at a time so far.
        waiting: How many of them waited, on average.
        allowed: How many may.
        step: Slices of a request.

    Returns:
        Never fewer than two requests, so that one is on its way while another is worked on.
    """
    if waiting > allowed:
        return max(LEAST_REQUESTS * step, int(target * _DECREASE))
    return target + step if waiting < allowed / 2 else target


class Backlog:
    """Keeps the target of ``Slots`` where a server's queue wants it, and requests short.

    Args:
        channel: To the server.
        spec: The model whose queues are watched.
        slots: Whose target is set.
        most: Slices of a request at most.
        worker_key: Opens the server's statistics.
        tell_wait: Takes the seconds that a request waited lately, 0 while none is there.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        spec: ModelSpec,
        slots: Slots,
        most: int,
        *,
        worker_key: str,
        tell_wait: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._service: Any = services.GRPCInferenceServiceStub(channel)
        self._names = (f"{spec.name}_prep", f"{spec.name}_net")
        self._slots = slots
        self._most = most
        self.step = most
        """Slices of a request; changes while somebody waits for a place."""
        self._tell_wait = tell_wait
        self._metadata = tuple(worker_headers(worker_key).items())

    async def run(self) -> None:
        """Looks once a second until it is cancelled; while the server is away nothing changes."""
        loop = asyncio.get_running_loop()
        seen: tuple[float, list[Reading]] | None = None
        while True:
            await asyncio.sleep(INTERVAL_S)
            if not self._slots.taken:
                seen = None
                self._tell_wait(0.0)
                continue
            try:
                now = loop.time(), [await self._read(name) for name in self._names]
            except grpc.aio.AioRpcError:
                seen = None
                continue
            if seen is not None:
                self._tell_wait(waited_s(seen[1], now[1]))
                self._adapt(seen[1], now[1], now[0] - seen[0])
            seen = now

    def _adapt(self, before: list[Reading], after: list[Reading], elapsed_s: float) -> None:
        each = [waiting_slices(*pair, elapsed_s) for pair in zip(before, after, strict=True)]
        if None in each:
            return
        rate = (after[-1].slices - before[-1].slices) / elapsed_s
        if self._slots.waiting:
            self.step = request_slices(rate, self._most)
        allowed = allowed_slices(rate, self.step)
        waiting = sum(one or 0.0 for one in each)
        target = next_target(self._slots.target, waiting, allowed, self.step)
        if target < self._slots.target or self._slots.waiting:
            self._slots.target = target

    async def _read(self, name: str) -> Reading:
        """All versions of a model together; a reloaded one begins at 0 again."""
        answer = await self._service.ModelStatistics(
            messages.ModelStatisticsRequest(name=name), metadata=self._metadata, timeout=_TIMEOUT_S
        )
        stats = answer.model_stats
        return Reading(
            waited_ns=sum(one.inference_stats.queue.ns for one in stats),
            requests=sum(one.inference_stats.queue.count for one in stats),
            slices=sum(one.inference_count for one in stats),
        )
