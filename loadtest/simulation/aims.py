"""The smallest fleet that holds aims such as ``p95<60,stat:p99<30``.

aims ─▶ 1, 2, 4, … pods until all are held ─▶ bisection ─▶ the fewest
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from client.errors import ConfigurationError
from loadtest.simulation.answers import (
    ALL,
    CLASSES,
    QUANTILES,
    PolicyResult,
    Prices,
    Question,
    run_policy,
)
from loadtest.simulation.policies import Policy

__all__ = ("Aim", "parse_aims", "smallest")

_MOST_PODS = 4096
_MOST_OVER_WORK = 40
"""Pods over those busy with one study at a time; more would not help either."""


@dataclass(frozen=True)
class Aim:
    """Such as ``stat:p99<30``: a quantile of a class's turnaround below so many seconds."""

    group: str
    quantile: str
    below_s: float

    def held_by(self, result: PolicyResult) -> bool:
        """Whether the upper end of the confidence interval is below."""
        estimate = result.turnaround_s[self.group][self.quantile]
        upper = estimate.mean + (0.0 if math.isinf(estimate.half) else estimate.half)
        return upper < self.below_s


def parse_aims(text: str) -> tuple[Aim, ...]:
    """Read aims joined by commas: ``p95<60,stat:p99<30``.

    Raises:
        ConfigurationError: Another form.
    """
    aims = []
    for part in text.split(","):
        where, _, limit = part.strip().partition("<")
        group, _, quantile = where.strip().rpartition(":")
        try:
            aims.append(Aim(group or ALL, quantile, float(limit)))
        except ValueError as error:
            raise ConfigurationError(f"Expected an aim like 'p95<60', got {part!r}.") from error
        known = group in ("", *CLASSES) and quantile in {f"p{q}" for q in QUANTILES}
        if not known:
            raise ConfigurationError(
                f"Expected p50, p95 or p99, of stat, routine or all, got {part!r}."
            )
    return tuple(aims)


def smallest(
    question: Question,
    policy_of: Callable[[int], Policy],
    aims: Iterable[Aim],
    prices: Prices,
) -> PolicyResult | None:
    """The fewest pods of a cell with which every aim is held; None where no number does it.

    Doubles until the aims are held, then bisects: more pods are never worse.

    Args:
        question: Who sends what.
        policy_of: From a number of pods to the policy.
        aims: All must be held.
        prices: As for ``run_policy``.
    """
    wanted = tuple(aims)

    def held(pods: int) -> PolicyResult | None:
        try:
            result = run_policy(question, policy_of(pods), prices)
        except ConfigurationError:
            return None  # it never catches up
        return result if all(aim.held_by(result) for aim in wanted) else None

    low, high = 0, max(1, math.floor(question.work_pods))
    best = held(high)
    while best is None:
        low, high = high, 2 * high
        if high > _MOST_PODS or low > _MOST_OVER_WORK * max(1.0, question.work_pods):
            return None
        best = held(high)
    while high - low > 1:
        middle = (low + high) // 2
        found = held(middle)
        low, high, best = (low, middle, found) if found else (middle, high, best)
    return best
