"""KEDA's and the HPA's arithmetic, value by value, as their sources have it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.errors import ConfigurationError
from loadtest.crontime import WEEK_S, WeeklyCron
from loadtest.hpa import HorizontalAutoscaler, Metric, Policy, Rules, replicas_for
from loadtest.keda import (
    UNKNOWN_LAG,
    KedaAutoscaler,
    Measure,
    ScaledObject,
    StreamTrigger,
    read_scaled_object,
    scaled_object_of,
)

pytestmark = pytest.mark.unit

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
QUEUE = ScaledObject(
    (StreamTrigger("jobs:stat", target=1), StreamTrigger("jobs:routine", target=4))
)


@pytest.mark.parametrize(
    ("metadata", "measure", "target"),
    [
        ({}, Measure.LENGTH, 5),
        ({"streamLength": "3"}, Measure.LENGTH, 3),
        ({"streamLength": "3", "lagCount": "7"}, Measure.LENGTH, 3),
        ({"consumerGroup": "g"}, Measure.PENDING, 5),
        ({"consumerGroup": "g", "streamLength": "3"}, Measure.PENDING, 5),
        ({"consumerGroup": "g", "pendingEntriesCount": "2"}, Measure.PENDING, 2),
        ({"consumerGroup": "g", "lagCount": "9", "pendingEntriesCount": "2"}, Measure.LAG, 9),
    ],
)
def test_metadata_chooses_what_is_read(
    metadata: dict[str, str], measure: Measure, target: int
) -> None:
    trigger = StreamTrigger.of({"stream": "s", **metadata})
    assert (trigger.measure, trigger.target) == (measure, target)


def test_active_is_above_the_activation_value() -> None:
    trigger = StreamTrigger("s")
    assert [trigger.active(value) for value in (None, UNKNOWN_LAG, 0, 1)] == [
        False,
        False,
        False,
        True,
    ]
    assert not StreamTrigger("s", activation=1).active(1)  # KEDA issue 7835: sleeps on one study


@pytest.mark.parametrize(
    ("value", "target", "now", "wanted"),
    [(8, 4, 1, 2), (9, 4, 2, 3), (0, 4, 3, 0), (4.3, 4, 1, 1), (4.5, 4, 1, 2), (3.7, 4, 1, 1)],
)
def test_ceiling_and_tolerance(value: float, target: float, now: int, wanted: int) -> None:
    assert replicas_for(Metric(value, target), now) == wanted


def test_value_target_is_relative_to_the_pods_there_are() -> None:
    assert replicas_for(Metric(0.1, 0.05, of_one_pod=False), 3) == 6


def test_largest_metric_counts() -> None:
    autoscaler = KedaAutoscaler(QUEUE)
    assert autoscaler.sync(0, 1, (2, 17)) == 5
    assert KedaAutoscaler(QUEUE).sync(0, 1, (3, 4)) == 3


def test_an_unread_metric_forbids_fewer_pods_only() -> None:
    assert KedaAutoscaler(QUEUE).sync(0, 6, (1, None)) == 6
    assert KedaAutoscaler(QUEUE).sync(0, 1, (3, None)) == 3


def test_fewer_pods_only_after_the_window() -> None:
    hpa = HorizontalAutoscaler(1, 10)
    assert hpa.step(0, 8, [Metric(8, 1)]) == 8
    assert [hpa.step(at_s, 8, [Metric(2, 1)]) for at_s in (15, 150, 299)] == [8, 8, 8]
    assert hpa.step(300, 8, [Metric(2, 1)]) == 2


def test_more_pods_only_when_all_of_the_window_asked_for_them() -> None:
    hpa = HorizontalAutoscaler(1, 10, up=Rules((Policy(9, 15),), 30))
    asked = [(0, 2), (15, 6), (29, 6), (30, 6)]
    assert [hpa.step(at_s, 2, [Metric(n, 1)]) for at_s, n in asked] == [2, 2, 2, 6]


def test_default_rules_let_four_or_twice_as_many_come_in_15_s() -> None:
    assert HorizontalAutoscaler(1, 100).step(0, 1, [Metric(100, 1)]) == 5
    assert HorizontalAutoscaler(1, 100).step(0, 10, [Metric(100, 1)]) == 20


def test_a_policy_counts_what_changed_in_its_period() -> None:
    rules = Rules((Policy(2, 60),), 0)
    hpa = HorizontalAutoscaler(1, 100, up=rules)
    replicas, seen = 1, []
    for at_s in range(0, 91, 15):
        replicas = hpa.step(at_s, replicas, [Metric(50, 1)])
        seen.append(replicas)
    assert seen == [3, 3, 3, 3, 5, 5, 5]


def test_min_policy() -> None:
    rules = Rules((Policy(2, 15), Policy(100, 15, percent=True)), 0, most=False)
    assert HorizontalAutoscaler(1, 100, up=rules).step(0, 10, [Metric(99, 1)]) == 12


@given(st.lists(st.integers(0, 500), min_size=1, max_size=40), st.integers(1, 30))
def test_replicas_stay_between_least_and_most(values: list[int], most: int) -> None:
    hpa = HorizontalAutoscaler(1, most)
    replicas = 1
    for number, value in enumerate(values):
        replicas = hpa.step(15.0 * number, replicas, [Metric(value, 3)])
        assert 1 <= replicas <= most


def test_keda_wakes_at_the_first_poll_and_sleeps_after_the_cool_down() -> None:
    autoscaler = KedaAutoscaler(QUEUE)
    assert autoscaler.poll(0, 0, (0, 0)) == 0
    assert autoscaler.poll(30, 0, (0, 1)) == 1
    assert autoscaler.poll(60, 1, (0, 0)) == 1
    assert autoscaler.poll(330, 1, (0, 0)) == 1
    assert autoscaler.poll(331, 1, (0, 0)) == 0


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99)), min_size=1, max_size=60))
def test_never_none_while_work_exists(looks: list[tuple[int, int]]) -> None:
    autoscaler, replicas = KedaAutoscaler(QUEUE), 0
    for number, values in enumerate(looks):
        replicas = autoscaler.poll(400.0 * number, replicas, values)
        assert replicas or sum(values) == 0
        replicas = autoscaler.sync(400.0 * number, replicas, values)
        assert replicas or sum(values) == 0


def test_a_queue_that_cannot_be_read_lets_nobody_go() -> None:
    plain = KedaAutoscaler(QUEUE)
    assert plain.poll(1000, 3, (None, None)) == 3
    spec = {
        "triggers": [{"type": "redis-streams", "metadata": {"stream": "s", "streamLength": "4"}}],
        "fallback": {"replicas": 2, "failureThreshold": 3},
    }
    with_fallback = KedaAutoscaler(scaled_object_of(spec))
    assert with_fallback.poll(0, 0, (None,)) == 2
    assert [with_fallback.sync(15.0 * n, 1, (None,)) for n in range(5)] == [1, 1, 1, 2, 2]


def test_cron_keeps_a_floor_in_its_hours() -> None:
    floor = {"start": "0 7 * * 1-5", "end": "0 19 * * 1-5", "desiredReplicas": "2"}
    spec = {"triggers": [{"type": "cron", "metadata": {"timezone": "UTC", **floor}}]}
    autoscaler = KedaAutoscaler(scaled_object_of(spec))
    at = 7 * HOUR_S
    assert autoscaler.poll(at - 60, 0, (), at - 60) == 0
    assert autoscaler.poll(at, 0, (), at) == 1
    assert autoscaler.sync(at, 1, (), at) == 2
    saturday = 5 * DAY_S + 12 * HOUR_S
    assert autoscaler.poll(saturday, 1, (), saturday) == 0


@pytest.mark.parametrize(
    ("text", "week_s", "since_s"),
    [
        ("0 7 * * 1-5", 7 * HOUR_S, 0),
        ("0 7 * * 1-5", 7 * HOUR_S - 60, 2 * DAY_S + DAY_S - 60),
        ("30 */6 * * *", HOUR_S, 1800),
        ("0 0 * * 0", 0, DAY_S),
        ("0 0 * * 7", WEEK_S - 60, DAY_S - 60),
    ],
)
def test_cron_times(text: str, week_s: float, since_s: float) -> None:
    assert WeeklyCron(text).since_s(week_s) == pytest.approx(since_s)


@pytest.mark.parametrize("text", ["0 7 1 * *", "0 7 * *", "61 7 * * *", "0 7 * * MON"])
def test_cron_refuses_what_it_does_not_know(text: str) -> None:
    with pytest.raises(ConfigurationError):
        WeeklyCron(text)


def test_what_is_not_modelled_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="kafka"):
        scaled_object_of({"triggers": [{"type": "kafka", "metadata": {}}]})
    with pytest.raises(ConfigurationError, match="idleReplicaCount"):
        scaled_object_of({"triggers": [], "idleReplicaCount": 0})
    empty = tmp_path / "empty.yaml"
    empty.write_text("kind: Service\n")
    with pytest.raises(ConfigurationError, match="ScaledObject"):
        read_scaled_object(empty)
