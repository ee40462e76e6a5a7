"""When which study is due: the schedule of a load test, whatever becomes of earlier studies.

shape, seed ──▶ arrivals in time ──every Nth──▶ one generator's share
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from client.jobs import Priority
from loadtest.hospitalday import KINDS, Moment

__all__ = ("SIZES", "Arrival", "drawn", "poisson_mix", "share")

SIZES: dict[str, tuple[tuple[int, float], ...]] = {
    "mr_head": ((32, 0.3), (64, 0.3), (96, 0.3), (181, 0.1)),
    "ct": ((16, 0.5), (32, 0.4), (64, 0.1)),
    "xray": ((1, 0.6), (2, 0.4)),
}
"""Slices (images, of X-ray) of each kind of study, and which part has so many. An assumption; CT
are small ones, as they only travel to be refused: a slice of 512 x 512 has 0.2 MB."""


@dataclass(frozen=True)
class Arrival:
    """One study of the schedule.

    Attributes:
        number: Place in the schedule, from 0.
        at_s: Seconds from the beginning when it is due.
        kind: Of ``loadtest.hospitalday.KINDS``.
        priority: Of its job.
        slices: Its size.
        step: Number of the step of the load it belongs to, from 0.
    """

    number: int
    at_s: float
    kind: str
    priority: Priority
    slices: int
    step: int = 0

    @property
    def expected(self) -> str:
        """How it should end: only head MR has a model."""
        return "done" if self.kind == "mr_head" else "rejected"


def drawn(
    rng: np.random.Generator, moments: Sequence[Moment], slices: int = 0, step: int = 0
) -> list[Arrival]:
    """Give moments, whose times are seconds here, a size each.

    Args:
        rng: Where chance comes from.
        moments: ``at_h`` is taken as seconds.
        slices: Of every head MR; 0 draws from ``SIZES``.
        step: Of the load.
    """
    return [
        Arrival(0, one.at_h, one.kind, one.priority, _size(rng, one.kind, slices), step)
        for one in moments
    ]


def _size(rng: np.random.Generator, kind: str, slices: int) -> int:
    counts, parts = zip(*SIZES[kind], strict=True)
    chosen = int(rng.choice(counts, p=parts))
    return slices if slices and kind == "mr_head" else chosen


def poisson_mix(
    rng: np.random.Generator,
    rate_per_h: float,
    start_s: float,
    end_s: float,
    kinds: Sequence[str] = tuple(KINDS),
) -> list[Moment]:
    """Draw studies of a constant rate, kinds and STAT as in the hospital's mix.

    Args:
        rng: Where chance comes from.
        rate_per_h: Studies per hour.
        start_s: When they begin.
        end_s: When they end.
        kinds: Which kinds.

    Returns:
        Moments whose ``at_h`` are seconds.
    """
    count = rng.poisson(rate_per_h * (end_s - start_s) / 3600)
    parts = np.array([KINDS[kind].per_day for kind in kinds])
    chosen = rng.choice(len(kinds), size=count, p=parts / parts.sum())
    times = np.sort(rng.uniform(start_s, end_s, count))
    urgent = rng.random(count) < np.array([KINDS[kind].stat for kind in kinds])[chosen]
    return [
        Moment(float(at), kinds[which], Priority.STAT if stat else Priority.ROUTINE)
        for at, which, stat in zip(times, chosen, urgent, strict=True)
    ]


def share(arrivals: Sequence[Arrival], part: int, parts: int) -> list[Arrival]:
    """The arrivals that one of several generators sends: every ``parts``-th from ``part`` on."""
    return list(arrivals[part::parts])
