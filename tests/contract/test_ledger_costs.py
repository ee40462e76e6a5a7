"""What attempts took is entered with their end, once, and only by who holds the job."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest

from client.audittrail import AuditEntry, Outcome
from client.errors import LeaseLost, RefusalCode
from client.jobs import Actor, Job, JobState
from client.ledger import enquiries
from client.ledger.ledger import Ledger
from client.ledger.records import AttemptCost
from client.ledger.spent import JobSpending
from tests.ledgers import LEASE_S, Clock, cost_of, result_of, submitted

pytestmark = pytest.mark.contract

SENDER = Actor("dr.x", "sender")


async def running(ledger: Ledger) -> Job:
    return await ledger.claim((await submitted(ledger)).id, "w", LEASE_S)


async def again(ledger: Ledger, job: Job) -> Job:
    return await ledger.claim(job.id, "w", LEASE_S)


async def told(ledger: Ledger, since: datetime, until: datetime) -> list[JobSpending]:
    return [job async for job in ledger.spending(since, until)]


async def rows(ledger: Ledger, clock: Clock) -> list[tuple[int, JobState, AttemptCost]]:
    (job,) = await told(ledger, clock.now - timedelta(days=1), clock.now + timedelta(days=1))
    return [(one.attempt, one.state, one.cost) for one in job.attempts]


@pytest.mark.parametrize("end", ["finish", "reject", "fail", "retry", "release"])
async def test_each_end_of_an_attempt_has_its_cost(ledger: Ledger, clock: Clock, end: str) -> None:
    job, costs = await running(ledger), [cost_of("a"), cost_of("b", slices=3)]
    match end:
        case "finish":
            state = (await ledger.finish(job, result_of(job), costs)).state
        case "reject":
            state = (await ledger.reject(job, RefusalCode.COLOUR, "x", costs=costs)).state
        case "fail":
            state = (await ledger.fail(job, RefusalCode.ERASED, "x", costs)).state
        case "retry":
            state = (await ledger.retry(job, "x", 0.0, costs)).state
        case _:
            state = (await ledger.release(job, costs)).state
    assert await rows(ledger, clock) == [(1, state, costs[0]), (1, state, costs[1])]


async def test_failed_attempts_cost_as_well_and_the_last_one_that_dies(
    ledger: Ledger, clock: Clock
) -> None:
    job = await running(ledger)
    for number in (1, 2, 3):
        await ledger.retry(job, "x", 0.0, [cost_of(cpu_us=number)])
        if number < 3:
            job = await again(ledger, job)
    found = [(attempt, state, cost.cpu_us) for attempt, state, cost in await rows(ledger, clock)]
    assert found == [
        (1, JobState.QUEUED, 1),
        (2, JobState.QUEUED, 2),
        (3, JobState.DEAD, 3),
    ]


async def test_who_lost_the_job_enters_nothing_and_the_attempt_stays_unaccounted(
    ledger: Ledger, clock: Clock
) -> None:
    late = await running(ledger)
    clock.move(LEASE_S + 1)
    job = await again(ledger, late)
    costs: Sequence[AttemptCost] = [cost_of(cpu_us=1)]
    for write in (
        ledger.finish(late, result_of(late), costs),
        ledger.reject(late, RefusalCode.COLOUR, "x", costs=costs),
        ledger.fail(late, RefusalCode.ERASED, "x", costs),
        ledger.retry(late, "x", 0.0, costs),
        ledger.release(late, costs),
    ):
        with pytest.raises(LeaseLost):
            await write
    assert await rows(ledger, clock) == []
    await ledger.finish(job, result_of(job), [cost_of(cpu_us=2)])
    with pytest.raises(LeaseLost):
        await ledger.finish(job, result_of(job), [cost_of(cpu_us=3)])
    assert [(number, cost.cpu_us) for number, _, cost in await rows(ledger, clock)] == [(2, 2)]
    (spent,) = await told(ledger, clock.now - timedelta(days=1), clock.now + timedelta(days=1))
    assert spent.ended == 2


async def test_an_attempt_that_has_not_ended_is_not_missed(ledger: Ledger, clock: Clock) -> None:
    await running(ledger)
    (spent,) = await told(ledger, clock.now - timedelta(days=1), clock.now + timedelta(days=1))
    assert (spent.ended, spent.attempts) == (0, ())


async def test_objects_and_fetches_are_told_with_their_times(ledger: Ledger, clock: Clock) -> None:
    job = await running(ledger)
    clock.move(60)
    done = await ledger.finish(job, result_of(job), [cost_of()])
    for outcome in (Outcome.OK, Outcome.DENIED, Outcome.OK):
        clock.move(60)
        entry = AuditEntry("call.FetchResult", outcome, job_id=job.id)
        await ledger.record(job.tenant, SENDER, entry)
    clock.move(60)
    await ledger.give_up_studies([job.id])
    study_gone = clock.now
    clock.move(60)
    await ledger.expire([job.id])
    end = clock.now
    (spent,) = await told(ledger, end - timedelta(days=1), end + timedelta(days=1))
    assert (spent.tenant, spent.created_at) == (job.tenant, job.created_at)
    assert (spent.study_bytes, spent.result_bytes) == (1000, 77)
    assert spent.result_at is not None
    assert spent.study_gone_at is not None
    assert spent.result_gone_at is not None
    second = timedelta(seconds=1)
    assert abs(spent.result_at - done.updated_at) < second
    assert abs(spent.study_gone_at - study_gone) < second
    assert abs(spent.result_gone_at - end) < second
    assert [round((at - done.updated_at).total_seconds()) for at in spent.fetched_at] == [60, 180]
    # Gone before the period began: it costs nothing more.
    assert await told(ledger, end + second, end + timedelta(days=1)) == []
    # Came after it.
    assert await told(ledger, end - timedelta(days=9), job.created_at) == []


async def test_jobs_come_in_pages_each_once(
    ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enquiries, "_PAGE", 2)
    entered = []
    for number in range(5):
        job = await running(ledger)
        await ledger.finish(job, result_of(job), [cost_of(cpu_us=number)])
        entered.append((job.id, number))
    found = await told(ledger, clock.now - timedelta(days=1), clock.now + timedelta(days=1))
    assert [(job.id, job.attempts[0].cost.cpu_us) for job in found] == sorted(entered)


async def test_erasing_a_patient_leaves_what_it_cost(ledger: Ledger, clock: Clock) -> None:
    job = await running(ledger)
    await ledger.finish(job, result_of(job), [cost_of()])
    await ledger.erase(job.tenant, [job.id], SENDER, "asked for")
    (spent,) = await told(ledger, clock.now - timedelta(days=1), clock.now + timedelta(days=1))
    assert [one.cost for one in spent.attempts] == [cost_of()]
    assert spent.study_gone_at == spent.result_gone_at is not None
