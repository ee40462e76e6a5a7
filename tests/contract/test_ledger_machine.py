"""The ledger does what a model of the state machine says, whatever is asked of it in what order."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from client.jobs import TERMINAL_STATES, TRANSITIONS, WAITING_STATES, JobState
from tests.ledger_machine import LedgerMachine

pytestmark = pytest.mark.contract


def test_every_random_life_of_jobs_is_as_the_model_says(url: str) -> None:
    class Machine(LedgerMachine):
        def __init__(self) -> None:
            super().__init__(url)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=10,
            stateful_step_count=50,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_table_of_transitions_is_whole() -> None:
    assert set(TRANSITIONS) == set(JobState)
    assert set(WAITING_STATES) == {JobState.RECEIVED, JobState.QUEUED}
    reached = {JobState.RECEIVED}
    for _ in JobState:
        reached |= {after for state in reached for after in TRANSITIONS[state]}
    assert reached == set(JobState)
    for state in TERMINAL_STATES:
        assert TRANSITIONS[state] <= {JobState.QUEUED}
