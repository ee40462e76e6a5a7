"""What a fleet comes to under a policy.

days drawn by seed ─▶ the same days under every policy ─▶ means with 95 % confidence intervals

More hospitals than one queue serves are cells: a queue and its pods for so many hospitals each,
independent of each other. One replication is one day of one cell; a fleet is cells × one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats

from client.jobs import Priority
from loadtest.simulation.cluster import PodSettings
from loadtest.simulation.day import DayOutcome, simulate_day
from loadtest.simulation.hospital import Arrival, Hospital, arrivals_of_day
from loadtest.simulation.policies import Policy
from loadtest.simulation.service import ServiceTimes

__all__ = (
    "ALL",
    "CLASSES",
    "QUANTILES",
    "Estimate",
    "PolicyResult",
    "Prices",
    "Question",
    "run_policy",
)

ALL = "all"
CLASSES: Mapping[str, Priority | None] = {
    "stat": Priority.STAT,
    "routine": Priority.ROUTINE,
    ALL: None,
}
QUANTILES = (50, 95, 99)


@dataclass(frozen=True)
class Estimate:
    """A mean over replications and half the width of its 95 % confidence interval (Student)."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """From one value per replication; one alone has no interval."""
        if len(values) < 2:
            return cls(float(values[0]), math.inf)
        error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
        return cls(float(np.mean(values)), error * float(stats.t.ppf(0.975, len(values) - 1)))


@dataclass(frozen=True)
class Prices:
    """What a pod costs.

    Attributes:
        per_hour: Of one pod (one GPU), in any currency; None: not asked.
        busy_w: Watts of a pod with work; None: not asked.
        idle_w: Watts of a pod without.
    """

    per_hour: float | None = None
    busy_w: float | None = None
    idle_w: float = 0.0


@dataclass(frozen=True, eq=False)
class Question:
    """Who sends what, and to which pods.

    Attributes:
        hospital: What each hospital is like.
        hospitals: How many.
        peak: How many times as busy as an average day.
        times: Service times.
        settings: Of each pod.
        replications: Days drawn.
        seed: Of the first.
        cell_hospitals: Hospitals that share one queue, at most.
    """

    hospital: Hospital
    hospitals: int
    peak: float
    times: ServiceTimes
    settings: PodSettings
    replications: int = 5
    seed: int = 1
    cell_hospitals: int = 100

    @property
    def cells(self) -> int:
        """Queues of their own."""
        return math.ceil(self.hospitals / self.cell_hospitals)

    @property
    def in_cell(self) -> int:
        """Hospitals of the largest cell, which is the one simulated."""
        return math.ceil(self.hospitals / self.cells)

    @cached_property
    def days(self) -> tuple[list[Arrival], ...]:
        """The drawn days, the same for every policy."""
        seeds = np.random.SeedSequence(self.seed).spawn(self.replications)
        return tuple(
            arrivals_of_day(self.hospital, self.in_cell, self.peak, np.random.default_rng(seed))
            for seed in seeds
        )

    @property
    def work_pods(self) -> float:
        """Pods of a cell that would be busy all day with one study at a time."""
        works = [sum(self.times.alone_s(one.slices) for one in day) for day in self.days]
        return float(np.mean(works)) / 86_400

    @property
    def busiest_pods(self) -> float:
        """The same in the busiest hour of the drawn days."""
        hours = [
            np.bincount(
                [int(one.at_s // 3600) for one in day],
                weights=[self.times.alone_s(one.slices) for one in day],
                minlength=24,
            )
            for day in self.days
        ]
        return float(np.max(hours)) / 3600


@dataclass(frozen=True)
class PolicyResult:
    """One policy's figures, of the whole fleet where they add up.

    Attributes:
        name: Of the policy.
        studies: A day, fleet.
        turnaround_s: By class and quantile: ``["stat"]["p95"]``.
        cell_most_pods: Highest number of pods of one cell in any replication.
        fleet_pods: The same, all cells together.
        pod_hours: A day, fleet.
        busy: Part of the pods' time with a study in work.
        cost_per_day: None without a price.
        cost_per_study: None without a price.
        kwh_per_day: None without watts.
    """

    name: str
    studies: float
    turnaround_s: Mapping[str, Mapping[str, Estimate]]
    cell_most_pods: int
    fleet_pods: int
    pod_hours: Estimate
    busy: float
    cost_per_day: float | None
    cost_per_study: float | None
    kwh_per_day: float | None


def run_policy(question: Question, policy: Policy, prices: Prices) -> PolicyResult:
    """Every drawn day under one policy.

    Raises:
        ConfigurationError: It never catches up.
    """
    outcomes = [
        _Summary.of(simulate_day(day, question.times, question.settings, policy))
        for day in question.days
    ]
    cells = question.hospitals / question.in_cell
    hours = Estimate.of([one.pod_s / 3600 * cells for one in outcomes])
    studies = float(np.mean([one.studies for one in outcomes])) * cells
    pod_s = sum(one.pod_s for one in outcomes)
    busy_s = sum(one.busy_s for one in outcomes)
    cost = None if prices.per_hour is None else hours.mean * prices.per_hour
    most = max(one.most_pods for one in outcomes)
    watts = prices.busy_w
    busy = busy_s / pod_s if pod_s else 0.0
    return PolicyResult(
        name=policy.name,
        studies=studies,
        turnaround_s={
            group: {
                f"p{q}": Estimate.of([one.quantiles[group][q] for one in outcomes])
                for q in QUANTILES
            }
            for group in CLASSES
        },
        cell_most_pods=most,
        fleet_pods=most * question.cells,
        pod_hours=hours,
        busy=busy,
        cost_per_day=cost,
        cost_per_study=None if cost is None or not studies else cost / studies,
        kwh_per_day=None
        if watts is None
        else hours.mean * (busy * watts + (1 - busy) * prices.idle_w) / 1000,
    )


@dataclass(frozen=True)
class _Summary:
    """What is kept of a day."""

    studies: int
    quantiles: Mapping[str, Mapping[int, float]]
    pod_s: float
    busy_s: float
    most_pods: int

    @classmethod
    def of(cls, day: DayOutcome) -> _Summary:
        quantiles = {}
        for group, priority in CLASSES.items():
            seconds = day.turnarounds_s(priority)
            values = np.percentile(seconds, QUANTILES) if len(seconds) else np.zeros(len(QUANTILES))
            quantiles[group] = dict(zip(QUANTILES, values.tolist(), strict=True))
        return cls(len(day.studies), quantiles, day.pod_s, day.busy_s, day.most_pods)
