"""What must hold in the model whatever arrives: nothing lost, order kept, more pods never worse."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.errors import ConfigurationError
from client.jobs import Priority
from client.worker.pacing import STAT_IN_A_ROW
from loadtest.simulation.cluster import PodSettings
from loadtest.simulation.day import DayOutcome, simulate_day
from loadtest.simulation.hospital import DAY_S, DEFAULT_HOSPITAL, Arrival, arrivals_of_day
from loadtest.simulation.policies import Fixed, Keda, Latency, Policy, with_floor
from tests.simulated_days import QUEUE_HPA, QUEUE_KEDA, plain_times, poisson_day

pytestmark = pytest.mark.unit

POLICIES: Sequence[Policy] = (
    Fixed(2),
    Keda(QUEUE_KEDA),
    Keda(with_floor(QUEUE_KEDA, 1), "floor"),
    Latency(QUEUE_HPA),
)

arrivals = st.lists(
    st.tuples(
        st.floats(0, 4000), st.sampled_from(Priority), st.floats(0.05, 60), st.integers(1, 300)
    ),
    min_size=1,
    max_size=60,
).map(
    lambda found: [
        Arrival(at_s, "mr", slices, priority, work_s)
        for at_s, priority, work_s, slices in sorted(found)
    ]
)


def day_of(found: Sequence[Arrival], policy: Policy, places: int = 3) -> DayOutcome:
    return simulate_day(found, plain_times(), PodSettings(places, 120.0), policy, 7200.0)


@settings(max_examples=25, deadline=None)
@given(arrivals, st.sampled_from(POLICIES), st.integers(1, 4))
def test_every_study_ends_once_and_takes_its_time(
    found: list[Arrival], policy: Policy, places: int
) -> None:
    outcome = day_of(found, policy, places)
    assert sorted(study.order for study in outcome.studies) == [*range(1, len(found) + 1)]
    for study in outcome.studies:
        assert study.arrived_s <= study.taken_s <= study.ended_s
        assert study.ended_s - study.taken_s >= study.work_s - 1e-6
    assert 0 <= outcome.busy_s <= outcome.pod_s + 1e-6
    assert outcome.pod_s <= outcome.most_pods * outcome.hours_s + 1e-6


@settings(max_examples=25, deadline=None)
@given(arrivals, st.sampled_from(POLICIES), st.integers(1, 4))
def test_first_come_first_taken_within_a_class(
    found: list[Arrival], policy: Policy, places: int
) -> None:
    for priority in Priority:
        mine = [one for one in day_of(found, policy, places).studies if one.priority is priority]
        in_order = sorted(mine, key=lambda one: one.order)
        assert [one.taken_s for one in in_order] == sorted(one.taken_s for one in mine)


@settings(max_examples=15, deadline=None)
@given(arrivals)
def test_same_day_same_answer(found: list[Arrival]) -> None:
    one, two = (day_of(found, Keda(QUEUE_KEDA)) for _ in range(2))
    assert one.turnarounds_s().tolist() == two.turnarounds_s().tolist()
    assert one.pod_s == two.pod_s


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.0, 0.2])
def test_more_pods_never_raise_a_p95(seed: int, share: float) -> None:
    work = np.random.default_rng(seed).uniform(0.5, 8, 3000).tolist()
    day = poisson_day(0.5, work, seed, share)
    p95 = [
        float(np.percentile(day_of(day, Fixed(pods)).turnarounds_s(), 95))
        for pods in (3, 4, 5, 6, 8, 12, 20)
    ]
    assert p95 == sorted(p95, reverse=True)


def test_stat_first_but_every_ninth_turn_is_routines() -> None:
    stat = [Arrival(0.0, "mr", 8, Priority.STAT, 1.0) for _ in range(40)]
    routine = [Arrival(0.0, "mr", 8, Priority.ROUTINE, 1.0) for _ in range(40)]
    outcome = simulate_day([*stat, *routine], plain_times(), PodSettings(1, 0.0), Fixed(1), 0.0)
    general = sorted(
        (one for one in outcome.studies if not one.urgent_place), key=lambda one: one.taken_s
    )
    runs = [one.priority for one in general[: 2 * (STAT_IN_A_ROW + 1)]]
    assert runs == ([Priority.STAT] * STAT_IN_A_ROW + [Priority.ROUTINE]) * 2


def test_a_pod_that_starts_takes_nothing_before_it_is_ready() -> None:
    day = [Arrival(100.0, "mr", 8, Priority.ROUTINE, 1.0)]
    outcome = simulate_day(day, plain_times(), PodSettings(3, 200.0), Keda(QUEUE_KEDA), 0.0)
    # KEDA looks every 30 s: asked for at 120 s, ready at 320 s.
    assert outcome.studies[0].taken_s == pytest.approx(320.0)


def test_a_pod_that_is_sent_away_finishes_what_it_has() -> None:
    day = [Arrival(float(n), "mr", 8, Priority.ROUTINE, 5.0) for n in range(200)]
    spec = QUEUE_KEDA
    outcome = simulate_day(day, plain_times(), PodSettings(3, 60.0), Keda(spec), 40_000.0)
    assert len(outcome.studies) == 200
    assert outcome.samples[-1][2] == 0
    assert outcome.pod_s < 40_000.0


def test_the_floor_costs_pods_and_saves_the_first_study_a_start() -> None:
    day = [Arrival(9 * 3600.0, "mr", 8, Priority.STAT, 1.0)]
    bare = simulate_day(day, plain_times(), PodSettings(3, 180.0), Keda(QUEUE_KEDA))
    floor = Keda(with_floor(QUEUE_KEDA, 1))
    kept = simulate_day(day, plain_times(), PodSettings(3, 180.0), floor)
    assert bare.turnarounds_s()[0] > 180
    assert kept.turnarounds_s()[0] == pytest.approx(1.0)
    assert kept.pod_s > 13 * 3600 > bare.pod_s


def test_a_fleet_that_never_catches_up_is_said() -> None:
    day = poisson_day(1.0, [12.0] * 3000, 1)
    with pytest.raises(ConfigurationError, match="catch up"):
        simulate_day(day, plain_times(), PodSettings(3, 0.0), Fixed(1), 0.0)


def test_a_drawn_day_follows_the_curve_and_the_peak() -> None:
    days = [
        arrivals_of_day(DEFAULT_HOSPITAL, 200, peak, np.random.default_rng(7)) for peak in (1, 1.5)
    ]
    per_day = sum(kind.per_day for kind in DEFAULT_HOSPITAL.kinds) * 200
    for found, peak in zip(days, (1, 1.5), strict=True):
        assert len(found) == pytest.approx(per_day * peak, abs=4 * (per_day * peak) ** 0.5)
        assert [one.at_s for one in found] == sorted(one.at_s for one in found)
        assert 0 <= found[0].at_s <= found[-1].at_s < DAY_S
    mr = [one.at_s // 3600 for one in days[0] if one.kind == "mr_head"]
    (kind,) = (one for one in DEFAULT_HOSPITAL.kinds if one.name == "mr_head")
    expected = np.array(kind.hours) / sum(kind.hours) * len(mr)
    counts = np.bincount(np.array(mr, dtype=int), minlength=24)
    assert np.all(np.abs(counts - expected) <= 5 * np.sqrt(expected) + 1)
