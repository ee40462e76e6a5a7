"""STAT goes first without starving the rest, and retries do not march in step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.jobs import Priority
from client.worker.pacing import LONGEST_RETRY_S, STAT_IN_A_ROW, Turns, retry_delay_s

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("attempt", "full_s"), [(1, 1), (2, 2), (3, 4), (5, 16), (6, 20), (7, 20), (5000, 20)]
)
def test_the_delay_doubles_up_to_a_limit(attempt: int, full_s: float) -> None:
    assert retry_delay_s(attempt, 0.0) == full_s / 2
    assert retry_delay_s(attempt, 1.0) == full_s
    assert retry_delay_s(attempt, 0.5) == full_s * 0.75


@given(st.integers(1, 100), st.floats(0, 1))
def test_no_delay_is_out_of_bounds(attempt: int, chance: float) -> None:
    assert 0.5 <= retry_delay_s(attempt, chance) <= LONGEST_RETRY_S


@given(st.lists(st.sampled_from([(9, 0), (0, 9), (9, 9), (1, 1)]), min_size=30, max_size=60))
def test_routine_waits_for_eight_stat_studies_at_most(waiting: list[tuple[int, int]]) -> None:
    turns = Turns()
    stat_since_routine_waits = 0
    for stat, routine in waiting:
        number = {Priority.STAT: stat, Priority.ROUTINE: routine}
        taken = next(priority for priority in turns.order if number[priority])
        turns.begun(taken)
        if taken is Priority.ROUTINE or not routine:
            stat_since_routine_waits = 0
        else:
            stat_since_routine_waits += 1
        assert stat_since_routine_waits <= STAT_IN_A_ROW


def test_stat_goes_first_until_then() -> None:
    turns = Turns()
    for _ in range(STAT_IN_A_ROW):
        assert turns.order == (Priority.STAT, Priority.ROUTINE)
        turns.begun(Priority.STAT)
    assert turns.order == (Priority.ROUTINE, Priority.STAT)
    turns.begun(Priority.STAT)
    assert turns.order == (Priority.ROUTINE, Priority.STAT)
    turns.begun(Priority.ROUTINE)
    assert turns.order == (Priority.STAT, Priority.ROUTINE)
