"""How many slices are sent, by what waits in the server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.triton.backlog import (
    Reading,
    allowed_slices,
    next_target,
    request_slices,
    waited_s,
    waiting_slices,
)

pytestmark = pytest.mark.unit

STEP = 4


def test_slices_that_wait_follow_from_the_time_they_waited() -> None:
    """Ten requests of 4 slices that waited half a second each, in 2.5 s: two at a time."""
    before = Reading(1_000_000_000, 7, 28)
    after = Reading(6_000_000_000, 17, 68)
    assert waiting_slices(before, after, 2.5) == pytest.approx(8)
    assert waiting_slices(before, before, 2.5) is None
    assert waiting_slices(after, Reading(0, 0, 0), 2.5) is None


def test_a_requests_wait_is_the_sum_of_its_queues() -> None:
    """Half a second in the first, a tenth in the second; the third did nothing."""
    before = [Reading(1_000_000_000, 7, 28), Reading(0, 0, 0), Reading(5, 5, 5)]
    after = [Reading(6_000_000_000, 17, 68), Reading(400_000_000, 4, 4), Reading(5, 5, 5)]
    assert waited_s(before, after) == pytest.approx(0.6)
    assert waited_s(after, before) == 0.0  # reloaded: its counters began again


@pytest.mark.parametrize(
    ("target", "waiting", "expected"),
    [(32, 20.0, 24), (24, 8.1, 18), (18, 8.0, 18), (16, 4.0, 16), (16, 3.9, 20), (9, 9.0, 8)],
)
def test_so_many_wait_and_no_more(target: int, waiting: float, expected: int) -> None:
    assert next_target(target, waiting, 8, STEP) == expected


@pytest.mark.parametrize(
    ("slices_per_s", "expected"), [(0, 4), (30, 4), (60, 6), (80, 8), (5000, 500)]
)
def test_a_tenth_of_a_second_may_wait(slices_per_s: float, expected: float) -> None:
    assert allowed_slices(slices_per_s, STEP) == expected


@pytest.mark.parametrize(
    ("slices_per_s", "expected"), [(0, 1), (10, 1), (31, 2), (60, 4), (5000, 4)]
)
def test_a_slow_server_gets_short_requests(slices_per_s: float, expected: int) -> None:
    assert request_slices(slices_per_s, STEP) == expected


@given(
    st.integers(1, 200),
    st.integers(1, 64),
    st.integers(1, 16),
    st.integers(8, 200),
    st.floats(1, 2000),
)
def test_it_settles_where_the_engine_never_starves(
    start: int, working: int, step: int, most: int, slices_per_s: float
) -> None:
    """A server that works on so many at a time, a batch or its places: all others wait."""
    allowed = allowed_slices(slices_per_s, step)
    target = min(start, most)
    for _ in range(200):
        waiting = max(0.0, target - working)
        target = min(next_target(target, waiting, allowed, step), most)
    assert target <= max(working + allowed + step, 2 * step)
    assert target >= min(most, 0.75 * (working + allowed / 2))
