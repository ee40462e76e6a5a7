"""Two settings in turns: what is clearly more, what is noise, what breaks the limit.

turns of both, next to each other in time ─▶ ratios within a pair ─▶ medians ─▶ verdict
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

import numpy as np

from export.tuned import Trial

__all__ = ("NO_SLOWER", "Limit", "Pair", "Turn", "Verdict", "compare", "is_settled")

LEAST_GAIN = 0.02
"""A smaller difference is none, however often it is seen."""

HOPELESS = 0.1
"""What is so much slower in every pair at first is not measured further; less suffices where it
takes more CPU time too."""

ODD_PAIRS = 6
"""Of so many pairs one may contradict the others: somebody else used the machine meanwhile."""


class Verdict(StrEnum):
    """What a comparison says about the settings that are new."""

    BETTER = "better"
    NO_GAIN = "no gain"
    SLOWER = "slower"
    OVER_LIMIT = "over the limit"
    OTHER_ANSWERS = "other answers"


@dataclass(frozen=True)
class Turn:
    """What one turn of some settings measured.

    Attributes:
        slices_per_s: With many slices in flight.
        cpu_ms: CPU milliseconds of a slice meanwhile; 0 where the CPU does not compute.
        latencies_ms: Times of slices that came alone, one after the other.
    """

    slices_per_s: float
    cpu_ms: float
    latencies_ms: tuple[float, ...]

    @property
    def p50_ms(self) -> float:
        """Median time of a slice that comes alone."""
        return median(self.latencies_ms)

    @property
    def p99_ms(self) -> float:
        """99th percentile of the time of a slice that comes alone."""
        return float(np.percentile(self.latencies_ms, 99))


@dataclass(frozen=True)
class Pair:
    """One turn of each, next to each other in time; ratios are the candidate's over the rival's."""

    rival: Turn
    candidate: Turn

    @property
    def throughput(self) -> float:
        """Ratio of slices per second."""
        return self.candidate.slices_per_s / self.rival.slices_per_s

    @property
    def cpu(self) -> float:
        """Ratio of CPU time; 1 where the CPU does not compute."""
        return self.candidate.cpu_ms / self.rival.cpu_ms if self.rival.cpu_ms else 1.0

    @property
    def p50(self) -> float:
        """Ratio of the median times of a slice that comes alone."""
        return self.candidate.p50_ms / self.rival.p50_ms

    @property
    def p99(self) -> float:
        """Ratio of their 99th percentiles."""
        return self.candidate.p99_ms / self.rival.p99_ms


@dataclass(frozen=True)
class Limit:
    """How long a slice that comes alone may take.

    Attributes:
        p99_ms: For the 99th percentile, or None: no more than ``rise`` times the rival's. Medians
            over the turns: one turn in which somebody else used the machine decides nothing.
        rise: See ``p99_ms``.
    """

    p99_ms: float | None = None
    rise: float = 1.25

    def allows(self, turns: Sequence[Turn], ratios: Sequence[float]) -> bool:
        """Whether turns are within the limit; ratios are those to the rival's."""
        if self.p99_ms is None:
            return median(ratios) <= self.rise
        return median(turn.p99_ms for turn in turns) <= self.p99_ms


NO_SLOWER = Limit()
"""The limit where none is given."""


def is_settled(pairs: Sequence[Pair], count: int, limit: Limit) -> bool:
    """Whether further pairs are a waste, because the candidate cannot win any more.

    Args:
        pairs: Those that were measured.
        count: Pairs of the whole comparison.
        limit: See ``compare``.
    """
    far = all(pair.throughput < 1 - HOPELESS for pair in pairs)
    dearer = all(pair.throughput < 1 - LEAST_GAIN and pair.cpu > 1 + LEAST_GAIN for pair in pairs)
    # Up to so many pairs every one must agree; an absolute limit may still decide for it.
    noise = count < ODD_PAIRS and limit.p99_ms is None
    return far or dearer or (noise and all(_contradicts(one) for one in _measures(pairs)))


def compare(change: str, pairs: Sequence[Pair], limit: Limit) -> Trial:
    """Judges a candidate against its rival.

    Contract:
        - A candidate over the limit loses. Within it, it wins against a rival that is over an
          absolute limit, whatever their throughput.
        - Else the first of throughput, CPU time and median latency that differs clearly decides:
          by at least 2 % in the median, and in the same direction in every pair (from six pairs
          on, in all but one of six). Where none does, nothing is gained; nor where one is better
          but what weighs more is worse by 2 % in the median, if not clearly.

    Args:
        change: What differs, for people.
        pairs: At least one.
        limit: How long a slice that comes alone may take.
    """
    own, other = [one.candidate for one in pairs], [one.rival for one in pairs]
    if not limit.allows(own, [one.p99 for one in pairs]):
        verdict = Verdict.OVER_LIMIT
    elif not limit.allows(other, [1.0]):
        verdict = Verdict.BETTER
    else:
        verdict = _weigh(_measures(pairs))
    return Trial(
        change=change,
        verdict=verdict.value,
        pairs=len(pairs),
        throughput=round(median(one.throughput for one in pairs), 4),
        cpu=round(median(one.cpu for one in pairs), 4),
        p50=round(median(one.p50 for one in pairs), 4),
        p99=round(median(one.p99 for one in pairs), 4),
        slices_per_s=round(median(one.slices_per_s for one in own), 3),
        cpu_ms=round(median(one.cpu_ms for one in own), 3),
        p99_ms=round(median(one.p99_ms for one in own), 3),
    )


def _measures(pairs: Sequence[Pair]) -> tuple[list[float], list[float], list[float]]:
    """Ratios of which more is better, the weightiest first."""
    return (
        [one.throughput for one in pairs],
        [1 / one.cpu for one in pairs],
        [1 / one.p50 for one in pairs],
    )


def _weigh(measures: Sequence[Sequence[float]]) -> Verdict:
    for number, ratios in enumerate(measures):
        if _clearly_more(ratios):
            unharmed = all(median(one) > 1 - LEAST_GAIN for one in measures[:number])
            return Verdict.BETTER if unharmed else Verdict.NO_GAIN
        if _clearly_more([1 / ratio for ratio in ratios]):
            return Verdict.SLOWER
    return Verdict.NO_GAIN


def _clearly_more(ratios: Sequence[float]) -> bool:
    contradict = sum(ratio <= 1 for ratio in ratios)
    return median(ratios) >= 1 + LEAST_GAIN and contradict <= len(ratios) // ODD_PAIRS


def _contradicts(ratios: Sequence[float]) -> bool:
    """Whether some pairs say more and others less, or all say the same."""
    return min(ratios) <= 1 <= max(ratios)
