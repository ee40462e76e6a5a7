"""The schedule of a load test: what a hospital sends, every shape, every generator's share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from client.errors import ConfigurationError
from client.jobs import Priority
from loadtest.hospitalday import (
    HOURS_PER_DAY,
    KINDS,
    PEAK_FACTOR,
    moments_of_day,
    rate_per_h,
    studies_per_day,
)
from loadtest.traffic.arrivals import SIZES, share
from loadtest.traffic.shapes import SHAPES, Load, schedule_of

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_hours_of_a_day_add_up_to_the_day(kind: str) -> None:
    assert len(KINDS[kind].by_hour) == HOURS_PER_DAY
    day = sum(rate_per_h(kind, hour) for hour in range(HOURS_PER_DAY))
    assert day == pytest.approx(PEAK_FACTOR * KINDS[kind].per_day)
    assert rate_per_h(kind, 34.5) == rate_per_h(kind, 10.0)


def test_a_drawn_day_has_the_volume_and_the_curve_of_the_mean() -> None:
    hospitals = 200
    moments = moments_of_day(np.random.default_rng(1), 0.0, 24.0, hospitals)
    assert len(moments) == pytest.approx(studies_per_day(hospitals), rel=0.02)
    assert [one.at_h for one in moments] == sorted(one.at_h for one in moments)
    for kind in KINDS:
        mine = [one for one in moments if one.kind == kind]
        at_ten = sum(10 <= one.at_h < 11 for one in mine)
        assert at_ten == pytest.approx(rate_per_h(kind, 10.0, hospitals), rel=0.15)
        stat = sum(one.priority is Priority.STAT for one in mine) / len(mine)
        assert stat == pytest.approx(KINDS[kind].stat, abs=0.03)


def test_broken_hours_send_their_part() -> None:
    rng = np.random.default_rng(2)
    moments = moments_of_day(rng, 9.5, 10.25, 1000, kinds=("xray",))
    before, after = 0.5 * rate_per_h("xray", 9, 1000), 0.25 * rate_per_h("xray", 10, 1000)
    assert sum(one.at_h < 10 for one in moments) == pytest.approx(before, rel=0.05)
    assert sum(one.at_h >= 10 for one in moments) == pytest.approx(after, rel=0.05)


@pytest.mark.parametrize("shape", list(SHAPES))
def test_the_seed_decides_every_shape(shape: str) -> None:
    load = Load(shape=shape, seed=7, seconds=600)
    schedule = schedule_of(load)
    assert schedule == schedule_of(load)
    assert schedule != schedule_of(replace(load, seed=8))
    assert [one.number for one in schedule] == list(range(len(schedule)))
    assert [one.at_s for one in schedule] == sorted(one.at_s for one in schedule)
    sizes = {kind: {64, 32, *(count for count, _ in counts)} for kind, counts in SIZES.items()}
    assert all(one.slices in sizes[one.kind] for one in schedule)


def test_generators_share_the_schedule_without_gap_or_overlap() -> None:
    schedule = schedule_of(Load(shape="soak", seconds=600))
    shares = [share(schedule, part, 3) for part in range(3)]
    assert sorted(one.number for each in shares for one in each) == list(range(len(schedule)))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_faster_day_is_the_same_day() -> None:
    slow = schedule_of(Load(speed=1.0, seed=3))
    fast = schedule_of(Load(speed=10.0, seed=3))
    assert [one.kind for one in slow] == [one.kind for one in fast]
    assert [one.at_s for one in slow] == pytest.approx([10 * one.at_s for one in fast])
    assert slow[-1].at_s < 5 * 3600


def test_steps_rise_and_have_one_size() -> None:
    load = Load(shape="step", rates_per_h=(3600.0, 7200.0), seconds=500.0)
    schedule = schedule_of(load)
    steps = [[one for one in schedule if one.step == number] for number in (0, 1)]
    assert [len(one) for one in steps] == [
        pytest.approx(500, rel=0.15),
        pytest.approx(1000, rel=0.15),
    ]
    assert max(one.at_s for one in steps[0]) < 500 <= min(one.at_s for one in steps[1])
    assert {(one.kind, one.slices, one.priority) for one in schedule} == {
        ("mr_head", 64, Priority.ROUTINE)
    }


def test_a_spike_is_six_times_as_high() -> None:
    schedule = schedule_of(Load(shape="spike", rate_per_h=7200.0, seconds=1000.0))
    inside = sum(400 <= one.at_s < 600 for one in schedule)
    before = sum(one.at_s < 400 for one in schedule)
    assert inside / 200 == pytest.approx(6 * before / 400, rel=0.2)


def test_a_flood_is_routine_and_some_stat() -> None:
    schedule = schedule_of(Load(shape="stat-under-flood", rate_per_h=3600, seconds=600))
    stat = [one for one in schedule if one.priority is Priority.STAT]
    assert len(stat) == pytest.approx(40, abs=20)
    assert {one.slices for one in stat} == {32}
    assert len(schedule) - len(stat) == pytest.approx(600, rel=0.2)


def test_a_load_without_studies_and_an_unknown_shape_are_told() -> None:
    with pytest.raises(ConfigurationError, match="hospital-day"):
        schedule_of(Load(shape="flat"))
    with pytest.raises(ConfigurationError, match="Nothing is due"):
        schedule_of(Load(shape="soak", rate_per_h=0.0))
