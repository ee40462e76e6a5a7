"""Results are answered again only while the models that made them are the ones in service."""

from __future__ import annotations

import asyncio
from itertools import permutations
from typing import Any

import pytest

from client.jobs import Job, JobState, Priority
from client.ledger.ledger import Ledger
from client.ledger.service import fingerprint, told_models
from tests.ledgers import AUDIT_KEY, LEASE_S, Clock, new_job, raw_sql, result_of, served

pytestmark = pytest.mark.contract

SAME = {"content_key": "k" * 64}
STAT, ROUTINE = Priority.STAT, Priority.ROUTINE


async def sent(ledger: Ledger, priority: Priority = ROUTINE) -> tuple[Job, bool]:
    return await ledger.submit(new_job(priority=priority, **SAME))


async def done(ledger: Ledger, worker: str = "w") -> Job:
    """The content is sent, and a worker makes its result."""
    job, created = await sent(ledger)
    assert created
    claimed = await ledger.claim(job.id, worker, LEASE_S)
    return await ledger.finish(claimed, result_of(claimed))


async def test_a_result_answers_again_while_its_models_are_in_service(ledger: Ledger) -> None:
    models = [served(), served(3, name="chest_ct")]
    await ledger.serve("w", models)
    first = await done(ledger)
    assert first.made_with == fingerprint(models)
    assert await ledger.models_in_service() == {first.made_with}
    await ledger.serve("w", models[::-1])
    assert await sent(ledger) == (first, False)
    assert await ledger.find_content("radiology", SAME["content_key"]) == first


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"engine": "OpenVINO int8"},
        {"network_sha256": "e" * 64},
        {"spec_sha256": "e" * 64},
        {"name": "chest_ct"},
    ],
)
async def test_a_new_model_makes_a_new_job_at_once(ledger: Ledger, change: dict[str, Any]) -> None:
    await ledger.serve("w", [served()])
    first = await done(ledger)
    await ledger.serve("w", [served(**change)])
    assert await ledger.find_content("radiology", SAME["content_key"]) is None
    answers = await asyncio.gather(*(sent(ledger) for _ in range(20)))
    assert sum(created for _, created in answers) == 1
    assert len({job.id for job, _ in answers} | {first.id}) == 2
    assert (await ledger.get(first.id)).state is JobState.DONE


async def test_one_more_model_or_one_less_counts_too(ledger: Ledger) -> None:
    """Which model a series goes to depends on all there are."""
    await ledger.serve("w", [served()])
    first = await done(ledger)
    await ledger.serve("w", [served(), served(name="chest_ct")])
    second = await done(ledger)
    await ledger.serve("w", [served()])
    assert (await sent(ledger))[0].id not in (first.id, second.id)


async def test_what_was_made_while_models_changed_is_never_answered(ledger: Ledger) -> None:
    await ledger.serve("w", [served(1)])
    job, _ = await sent(ledger)
    claimed = await ledger.claim(job.id, "w", LEASE_S)
    await ledger.serve("w", [served(2)])
    assert (await ledger.finish(claimed, result_of(claimed))).made_with == ""
    for version in (1, 2):
        await ledger.serve("w", [served(version)])
        assert await ledger.find_content("radiology", SAME["content_key"]) is None


async def test_what_a_worker_made_that_said_nothing_is_never_answered(ledger: Ledger) -> None:
    first = await done(ledger)
    assert first.made_with == ""
    assert (await sent(ledger))[1]


async def test_while_workers_disagree_everything_is_made_anew(ledger: Ledger, clock: Clock) -> None:
    """As during a rolling update."""
    await ledger.serve("old", [served(1)], lease_s=60)
    first = await done(ledger, "old")
    await ledger.serve("new", [served(2)], lease_s=1e6)
    assert await ledger.find_content("radiology", SAME["content_key"]) is None
    await ledger.serve("new", [served(1)], lease_s=1e6)
    assert await sent(ledger) == (first, False)
    await ledger.serve("new", [served(2)], lease_s=1e6)
    second = await done(ledger, "new")
    assert await ledger.find_content("radiology", SAME["content_key"]) is None
    clock.move(61)  # nothing was heard of the old worker
    assert await sent(ledger) == (second, False)


async def test_nobody_in_service_answers_for_nothing(ledger: Ledger, clock: Clock) -> None:
    await ledger.serve("w", [served()], lease_s=60)
    first = await done(ledger)
    await ledger.serve("w", [])
    assert await ledger.models_in_service() == frozenset()
    assert await ledger.find_content("radiology", SAME["content_key"]) is None
    await ledger.serve("w", [served()], lease_s=60)
    assert await sent(ledger) == (first, False)
    clock.move(61)
    assert await ledger.find_content("radiology", SAME["content_key"]) is None


async def test_a_stat_study_is_never_answered_with_a_result_that_is_there(ledger: Ledger) -> None:
    await ledger.serve("w", [served()])
    first = await done(ledger)
    urgent, created = await sent(ledger, STAT)
    assert created
    assert (await sent(ledger, STAT)) == (urgent, False)
    assert (await sent(ledger, ROUTINE)) == (urgent, False)
    assert (await ledger.get(first.id)).result_key == first.result_key


async def test_a_stat_study_does_not_wait_for_a_routine_job(ledger: Ledger) -> None:
    await ledger.serve("w", [served()])
    routine, _ = await sent(ledger)
    urgent, created = await sent(ledger, STAT)
    assert created
    assert (await ledger.get(routine.id)).state is JobState.RECEIVED
    running = await ledger.claim(urgent.id, "w", LEASE_S)
    assert await sent(ledger, STAT) == (running, False)
    await ledger.serve("w", [served(2)])
    newest, created = await sent(ledger, STAT)
    assert created
    assert await sent(ledger, ROUTINE) == (newest, False)


async def test_saying_the_same_again_writes_only_now_and_then(
    url: str, ledger: Ledger, clock: Clock
) -> None:
    async def ends() -> list[Any]:
        return [row[0] for row in await raw_sql(url, "SELECT until FROM served_models")]

    await ledger.serve("w", [served()], lease_s=60)
    told = await ends()
    clock.move(19)
    await ledger.serve("w", [served()], lease_s=60)
    assert await ends() == told
    clock.move(2)
    await ledger.serve("w", [served()], lease_s=60)
    assert await ends() > told
    clock.move(30)
    await ledger.serve("w", [served(2)], lease_s=60)
    assert await ledger.models_in_service() == {fingerprint([served(2)])}


async def test_rows_of_workers_long_gone_are_removed(
    url: str, ledger: Ledger, clock: Clock
) -> None:
    await ledger.serve("gone", [served()], lease_s=60)
    clock.move(2 * 86_400)
    await ledger.serve("w", [served()])
    assert [row[0] for row in await raw_sql(url, "SELECT worker FROM served_models")] == ["w"]


async def test_jobs_of_the_first_version_are_of_unknown_models(url: str) -> None:
    async with Ledger(url, AUDIT_KEY) as ledger:
        job, _ = await ledger.submit(new_job(**SAME))
        claimed = await ledger.claim(job.id, "w", LEASE_S)
        await ledger.finish(claimed, result_of(claimed))
    await raw_sql(url, "DROP TABLE costs")
    await raw_sql(url, "DROP TABLE served_models")
    await raw_sql(url, "ALTER TABLE jobs DROP COLUMN made_with")
    await raw_sql(url, "ALTER TABLE jobs DROP COLUMN trace")
    await raw_sql(url, "UPDATE alembic_version SET version_num = '0001'")
    async with Ledger(url, AUDIT_KEY) as ledger:
        old = await ledger.get(job.id)
        assert (old.state, old.made_with, old.trace) == (JobState.DONE, "", None)
        await ledger.serve("w", [served()])
        assert (await ledger.submit(new_job(**SAME)))[1]


def test_a_fingerprint_tells_models_apart_whatever_their_order() -> None:
    models = [served(), served(name="a"), served(name="b")]
    assert len({told_models(order) for order in permutations(models)}) == 1
    assert len({fingerprint(order) for order in permutations(models)}) == 1
    assert len({fingerprint(models[:n]) for n in range(4)}) == 4
    assert fingerprint([]) == ""
