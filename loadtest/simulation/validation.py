"""The model against a real run: the same arrivals, predicted and measured turnaround.

hounsfield.load/1 ─▶ arrivals as acknowledged ─▶ model of one pod ─▶ p50, p95 by class, error
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.errors import ConfigurationError
from client.jobs import Priority
from loadtest.simulation.answers import CLASSES
from loadtest.simulation.cluster import PodSettings
from loadtest.simulation.day import simulate_day
from loadtest.simulation.hospital import Arrival
from loadtest.simulation.policies import Fixed
from loadtest.simulation.service import ServiceTimes

__all__ = ("FEWEST", "MOST_ERROR", "Comparison", "Validation", "read_run", "validate_run")

RUN_SCHEMA = "hounsfield.load/1"
MOST_ERROR = 0.25
"""Largest relative error of a p95."""
FEWEST = 20
"""Of a class with fewer studies a p95 says nothing: shown, not judged."""
_ENDED = ("done", "rejected")


@dataclass(frozen=True)
class Comparison:
    """One quantile of one class, seconds."""

    group: str
    quantile: int
    studies: int
    predicted_s: float
    measured_s: float

    @property
    def error(self) -> float:
        """Relative to the measured value."""
        return self.predicted_s / self.measured_s - 1

    @property
    def judged(self) -> bool:
        """p95 of a class with enough studies."""
        return self.quantile == 95 and self.studies >= FEWEST


@dataclass(frozen=True)
class Validation:
    """What came of it.

    Attributes:
        comparisons: By class and quantile.
        left_out: Studies of the run without an end that the model knows (failed, lost, errors).
        predicted_s: Every turnaround, sorted.
        measured_s: Every turnaround, sorted.
    """

    comparisons: tuple[Comparison, ...]
    left_out: int
    predicted_s: NDArray[np.float64]
    measured_s: NDArray[np.float64]

    @property
    def held(self) -> bool:
        """Whether at least one p95 was judged and all are near enough."""
        judged = [one for one in self.comparisons if one.judged]
        return bool(judged) and all(abs(one.error) <= MOST_ERROR for one in judged)


@dataclass(frozen=True)
class _Measured:
    """One study of the run, as an arrival and with its real turnaround."""

    arrival: Arrival
    turnaround_s: float


def read_run(path: Path) -> dict[str, Any]:
    """Read the outcome of a load run.

    Raises:
        ConfigurationError: It is missing or of another form.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"Expected a load run ({RUN_SCHEMA}) in {path}.") from error
    if found.get("schema") != RUN_SCHEMA:
        raise ConfigurationError(f"Expected {RUN_SCHEMA} in {path}, found {found.get('schema')}.")
    return found


def validate_run(run: dict[str, Any], times: ServiceTimes, settings: PodSettings) -> Validation:
    """Replay a run's arrivals through the model of one pod.

    Raises:
        ConfigurationError: No study of the run ended.
    """
    measured = sorted(_studies(run, times), key=lambda one: one.arrival.at_s)
    if not measured:
        raise ConfigurationError("Expected studies that ended, the run has none.")
    arrivals = [one.arrival for one in measured]
    day = simulate_day(arrivals, times, settings, Fixed(1), least_s=0.0)
    comparisons = []
    for group, priority in CLASSES.items():
        real = np.array(
            [one.turnaround_s for one in measured if priority in (None, one.arrival.priority)]
        )
        model = day.turnarounds_s(priority)
        if len(real):
            comparisons += [
                Comparison(
                    group,
                    q,
                    len(real),
                    float(np.percentile(model, q)),
                    float(np.percentile(real, q)),
                )
                for q in (50, 95)
            ]
    return Validation(
        tuple(comparisons),
        len(run["studies"]) - len(measured),
        np.sort(day.turnarounds_s()),
        np.sort(np.array([one.turnaround_s for one in measured])),
    )


def _studies(run: dict[str, Any], times: ServiceTimes) -> Sequence[_Measured]:
    found = []
    for one in run["studies"]:
        if one["outcome"] not in _ENDED or one["acknowledged_s"] is None or one["ended_s"] is None:
            continue
        refused = one["outcome"] == "rejected"
        work_s = times.refused_s(one["bytes"]) if refused else times.alone_s(one["slices"])
        arrival = Arrival(
            one["acknowledged_s"], one["kind"], one["slices"], Priority(one["priority"]), work_s
        )
        found.append(_Measured(arrival, one["ended_s"] - one["acknowledged_s"]))
    return found
