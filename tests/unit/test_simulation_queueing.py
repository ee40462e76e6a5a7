"""The model against queueing theory: where theory has an exact answer, the model must give it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from client.jobs import Priority
from loadtest.simulation.cluster import PodSettings
from loadtest.simulation.day import DayOutcome, simulate_day
from loadtest.simulation.hospital import Arrival
from loadtest.simulation.policies import Fixed
from tests.simulated_days import plain_times, poisson_day

pytestmark = pytest.mark.unit

STUDIES = 10_000
RUNS = 8
ERRORS = 3.5
"""Standard errors that a mean may be away; all seeds are fixed."""


def exponential(mean_s: float, seed: int) -> list[float]:
    work: list[float] = np.random.default_rng(1000 + seed).exponential(mean_s, STUDIES).tolist()
    return work


def constant(mean_s: float, _seed: int) -> list[float]:
    return [mean_s] * STUDIES


def run(arrivals: Sequence[Arrival], pods: int, places: int) -> DayOutcome:
    return simulate_day(arrivals, plain_times(), PodSettings(places, 0.0), Fixed(pods), 0.0)


def mean_s(
    work: Callable[[float, int], list[float]], load: float, pods: int = 1, places: int = 1
) -> tuple[float, float]:
    """Mean turnaround of studies of 1 s and its standard error, over runs."""
    means = [
        float(run(poisson_day(load * pods, work(1.0, seed), seed), pods, places)
              .turnarounds_s().mean())
        for seed in range(RUNS)
    ]  # fmt: skip
    return float(np.mean(means)), float(np.std(means, ddof=1)) / math.sqrt(RUNS)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_one_place_exponential_is_m_m_1(load: float) -> None:
    found, error = mean_s(exponential, load)
    assert found == pytest.approx(1 / (1 - load), abs=ERRORS * error)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_one_place_constant_is_m_d_1(load: float) -> None:
    found, error = mean_s(constant, load)
    expected = 1 + load / (2 * (1 - load))  # Pollaczek and Khinchine
    assert found == pytest.approx(expected, abs=ERRORS * error)


@pytest.mark.parametrize("work", [exponential, constant])
def test_many_places_share_a_pod_whatever_the_distribution(
    work: Callable[[float, int], list[float]],
) -> None:
    found, error = mean_s(work, 0.6, places=10_000)
    assert found == pytest.approx(1 / (1 - 0.6), abs=ERRORS * error)  # M/G/1-PS is insensitive


@pytest.mark.parametrize(("pods", "load"), [(2, 0.6), (5, 0.8)])
def test_pods_of_one_place_are_m_d_c(pods: int, load: float) -> None:
    found, error = mean_s(constant, load, pods)
    assert found == pytest.approx(m_d_c_mean_s(pods, load), abs=ERRORS * error)


@pytest.mark.parametrize(("pods", "load"), [(2, 0.6), (5, 0.8)])
def test_pods_of_one_place_are_m_m_c(pods: int, load: float) -> None:
    found, error = mean_s(exponential, load, pods)
    offered = pods * load
    last = offered**pods / math.factorial(pods) / (1 - load)
    waits = last / (sum(offered**n / math.factorial(n) for n in range(pods)) + last)  # Erlang C
    assert found == pytest.approx(1 + waits / (pods * (1 - load)), abs=ERRORS * error)


def m_d_c_mean_s(servers: int, load: float) -> float:
    """Mean time in an M/D/c system of service time 1, exactly (Crommelin 1932, by his chain).

    Whoever is in service now has left one service time later, so the number present is a Markov
    chain from one service time to the next; Little's law makes a time of its mean.
    """
    size = 200
    rate = servers * load
    arrivals = np.array(
        [math.exp(-rate + n * math.log(rate) - math.lgamma(n + 1)) for n in range(size)]
    )
    present: NDArray[np.float64] = np.zeros(size)
    present[0] = 1.0
    for _ in range(2000):
        left = np.zeros(size)
        left[0] = present[: servers + 1].sum()
        left[1 : size - servers] = present[servers + 1 :]
        present = np.convolve(left, arrivals)[:size]
    return float((np.arange(size) * present).sum() / present.sum() / rate)


def test_the_chain_is_right_where_a_formula_is_known() -> None:
    assert m_d_c_mean_s(1, 0.7) == pytest.approx(1 + 0.7 / (2 * 0.3), rel=1e-6)


def test_measured_gain_is_the_throughput_of_a_full_pod() -> None:
    times = plain_times(gains=(1.0, 1.2, 1.5))
    day = [Arrival(0.0, "mr", 8, Priority.ROUTINE, 1.0) for _ in range(300)]
    outcome = simulate_day(day, times, PodSettings(3, 0.0), Fixed(1), 0.0)
    assert outcome.hours_s == pytest.approx(300 / 1.5)


def test_a_stat_study_has_its_weight_of_a_full_pod() -> None:
    day = [Arrival(0.0, "mr", 8, Priority.ROUTINE, 100.0) for _ in range(3)]
    day.append(Arrival(1.0, "mr", 8, Priority.STAT, 1.0))
    outcome = simulate_day(day, plain_times(weight=6.0), PodSettings(3, 0.0), Fixed(1), 0.0)
    assert outcome.turnarounds_s(Priority.STAT)[0] == pytest.approx(9 / 6)
