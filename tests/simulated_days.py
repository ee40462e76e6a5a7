"""What the simulation's tests share: service times by formula and days made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from client.jobqueue.keys import STREAMS
from client.jobs import Priority
from loadtest.hpa import DEFAULT_DOWN, DEFAULT_UP, PodMetricAutoscaler
from loadtest.keda import ScaledObject, StreamTrigger
from loadtest.simulation.hospital import Arrival
from loadtest.simulation.service import KindTimes, ServiceTimes

__all__ = ("QUEUE_HPA", "QUEUE_KEDA", "plain_times", "poisson_day")

QUEUE_KEDA = ScaledObject(
    streams=(
        StreamTrigger(STREAMS[Priority.STAT], target=1),
        StreamTrigger(STREAMS[Priority.ROUTINE], target=4),
    ),
    most=20,
    cooldown_s=900,
)

QUEUE_HPA = PodMetricAutoscaler(1, 6, 0.05, DEFAULT_UP, DEFAULT_DOWN)


def plain_times(
    *, weight: float = 4.0, gains: Sequence[float] = (1.0,), per_slice_s: float = 0.04
) -> ServiceTimes:
    """0.4 s and so much for each slice; the same throughput gain at any size."""
    kinds = [
        KindTimes(
            kind=f"mr_{slices}",
            slices=slices,
            bytes=17_000 * slices,
            alone_s=0.4 + per_slice_s * slices,
            refused=False,
            per_s={n: gain / (0.4 + per_slice_s * slices) for n, gain in enumerate(gains, 1)},
            stages_s={},
            cpu_s={},
        )
        for slices in (8, 96, 181)
    ]
    refused = KindTimes("refused", 4, 100_000, 0.3, True, {1: 1 / 0.3}, {}, {})
    return ServiceTimes("a formula", True, (*kinds, refused), weight, 3)


def poisson_day(
    per_s: float, work_s: Sequence[float], seed: int, stat_share: float = 0.0
) -> list[Arrival]:
    """Poisson arrivals, each with its own work."""
    draw = np.random.default_rng(seed)
    at_s = np.cumsum(draw.exponential(1 / per_s, len(work_s)))
    stat = draw.uniform(size=len(work_s)) < stat_share
    return [
        Arrival(when, "mr", 8, Priority.STAT if urgent else Priority.ROUTINE, work)
        for when, urgent, work in zip(at_s.tolist(), stat.tolist(), work_s, strict=True)
    ]
