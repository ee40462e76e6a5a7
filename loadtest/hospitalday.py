"""How many studies a hospital sends at which hour of the day, and a day drawn from it.

kind, hour of the day, hospitals ──▶ studies per hour ──a seed──▶ when each one comes

**An assumption, not a measurement.** 400 studies on a mean day, all MR taken for head MR; hours are
local time. Put your own hospital's counts in their place (a RIS can export them) before you buy
hardware by the outcome. What is known and was followed: the shares of CT, MR and X-ray are those
of England's Diagnostic Imaging Dataset, April 2012 (230,495, 159,745 and 1,567,800 examinations).
X-ray and CT go on all night, MR is scheduled by day; most work comes in the morning and early
afternoon. Of the examinations outside office hours a third was asked for between 16:00 and 20:00
of working days and a third between 20:00 and 08:00 (Peters et al., Radiologe 37:124, 1997; 65,113
examinations).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from client.jobs import Priority

__all__ = (
    "HOURS_PER_DAY",
    "KINDS",
    "PEAK_FACTOR",
    "Kind",
    "Moment",
    "moments_of_day",
    "rate_per_h",
    "studies_per_day",
)

HOURS_PER_DAY = 24
PEAK_FACTOR = 1.5
"""A busy day over a mean one; every hour of the curve is multiplied by it."""


@dataclass(frozen=True)
class Kind:
    """One kind of study in a hospital's mix.

    Attributes:
        name: ``mr_head``, ``ct`` or ``xray``.
        per_day: Studies of one hospital on a mean day.
        stat: Part of them that are STAT.
        by_hour: 24 weights, the hours from midnight; only their proportions count.
    """

    name: str
    per_day: float
    stat: float
    by_hour: tuple[float, ...]

    def part_of_day(self, hour: int) -> float:
        """Part of the day's studies that comes in an hour 0 to 23."""
        return self.by_hour[hour] / sum(self.by_hour)


# fmt: off
KINDS: Mapping[str, Kind] = MappingProxyType({
    kind.name: kind
    for kind in (
        Kind("mr_head", 33.0, 0.10,
             (0, 0, 0, 0, 0, 0, 1, 5, 8, 10, 10, 10, 8, 9, 10, 9, 8, 5, 3, 2, 1, 1, 0, 0)),
        Kind("ct", 47.0, 0.25,
             (2, 2, 1, 1, 1, 2, 3, 5, 8, 10, 11, 11, 9, 9, 10, 10, 9, 8, 7, 6, 5, 4, 3, 3)),
        Kind("xray", 320.0, 0.15,
             (2, 2, 2, 2, 3, 5, 7, 8, 11, 13, 14, 13, 10, 10, 12, 12, 10, 9, 8, 7, 6, 5, 4, 3)),
    )
})
# fmt: on
"""The mix, by name. Only head MR has a model so far: the others are read, and end as NO_MODEL."""


@dataclass(frozen=True)
class Moment:
    """One study to come.

    Attributes:
        at_h: Hour of the day when it comes, with its fraction.
        kind: Name of its kind.
        priority: Of its job.
    """

    at_h: float
    kind: str
    priority: Priority


def studies_per_day(hospitals: float = 1.0, peak: float = PEAK_FACTOR) -> float:
    """Studies of all kinds that so many hospitals send on a day."""
    return hospitals * peak * sum(kind.per_day for kind in KINDS.values())


def rate_per_h(kind: str, hour: float, hospitals: float = 1.0, peak: float = PEAK_FACTOR) -> float:
    """Studies of a kind per hour; constant within an hour.

    Args:
        kind: Name of the kind.
        hour: Hour of the day with its fraction; 24 and more are the next day's.
        hospitals: How many send.
        peak: What a busy day has more; 1.0 for a mean day.
    """
    one = KINDS[kind]
    return hospitals * peak * one.per_day * one.part_of_day(int(hour) % HOURS_PER_DAY)


def moments_of_day(
    rng: np.random.Generator,
    from_h: float,
    to_h: float,
    hospitals: float = 1.0,
    peak: float = PEAK_FACTOR,
    *,
    kinds: Sequence[str] = tuple(KINDS),
) -> tuple[Moment, ...]:
    """Draw the studies of a part of a day: a Poisson process whose rate follows the curve.

    Args:
        rng: Where chance comes from; the same one gives the same moments.
        from_h: Hour of the day when it begins.
        to_h: Hour when it ends; beyond 24 is the next day.
        hospitals: How many send.
        peak: As for ``rate_per_h``.
        kinds: Which kinds.

    Returns:
        The moments in time.
    """
    found: list[Moment] = []
    for kind in kinds:
        for start, end in _pieces(from_h, to_h):
            mean = rate_per_h(kind, start, hospitals, peak) * (end - start)
            times = rng.uniform(start, end, rng.poisson(mean))
            stat = rng.random(len(times)) < KINDS[kind].stat
            found += [
                Moment(float(at_h), kind, Priority.STAT if urgent else Priority.ROUTINE)
                for at_h, urgent in zip(times, stat, strict=True)
            ]
    return tuple(sorted(found, key=lambda one: one.at_h))


def _pieces(from_h: float, to_h: float) -> Iterator[tuple[float, float]]:
    """The whole and broken hours of a span, within which the rate is constant."""
    start = from_h
    while start < to_h:
        end = min(float(int(start) + 1), to_h)
        yield start, end
        start = end
