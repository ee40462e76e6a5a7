"""One job for one content, retries by hand, erasure, retention, key rotation, stored objects."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta

import pytest

from client.errors import LeaseLost, NotFound, RefusalCode, WrongState
from client.jobs import Actor, Job, JobState, Priority
from client.ledger.ledger import Ledger
from client.objectstore.objects import StoredObject
from tests.ledgers import LEASE_S, Clock, history, new_job, result_of, served, submitted

pytestmark = pytest.mark.contract

OPERATOR = Actor("op.y", "operator")
SAME = {"content_key": "k" * 64}


async def running(ledger: Ledger, **changes: object) -> Job:
    return await ledger.claim((await submitted(ledger, **changes)).id, "w", LEASE_S)


async def done(ledger: Ledger, **changes: object) -> Job:
    job = await running(ledger, **changes)
    return await ledger.finish(job, result_of(job))


async def test_the_same_content_is_one_job_while_it_may_serve(ledger: Ledger) -> None:
    answers = await asyncio.gather(*(ledger.submit(new_job(**SAME)) for _ in range(100)))
    assert len({job.id for job, _ in answers}) == 1
    assert sum(created for _, created in answers) == 1
    first = answers[0][0]
    found = await ledger.find_content("radiology", SAME["content_key"])
    assert found is not None
    assert found.id == first.id
    assert await ledger.find_content("cardiology", SAME["content_key"]) is None
    assert (await ledger.submit(new_job(tenant="cardiology", **SAME)))[1]
    await ledger.serve("w", [served()])
    claimed = await ledger.claim(first.id, "w", LEASE_S)
    finished = await ledger.finish(claimed, result_of(claimed))
    assert await ledger.submit(new_job(**SAME)) == (finished, False)
    assert (await ledger.submit(new_job()))[1]


@pytest.mark.parametrize("end", ["reject", "fail", "cancel", "dead", "erase", "expire"])
async def test_after_another_end_the_same_content_is_entered_anew(
    ledger: Ledger, end: str, clock: Clock
) -> None:
    job = await running(ledger, **SAME)
    match end:
        case "reject":
            await ledger.reject(job, RefusalCode.COLOUR, "x")
        case "fail":
            await ledger.fail(job, RefusalCode.TIMED_OUT, "x")
        case "cancel":
            await ledger.cancel("radiology", job.id)
        case "dead":
            for _ in range(2):
                await ledger.retry(job, "x")
                job = await ledger.claim(job.id, "w", LEASE_S)
            assert (await ledger.retry(job, "x")).state is JobState.DEAD
        case "erase":
            await ledger.finish(job, result_of(job))
            await ledger.erase("radiology", [job.id], OPERATOR, "asked for")
        case "expire":
            await ledger.finish(job, result_of(job))
            await ledger.expire([job.id])
    assert (await ledger.submit(new_job(**SAME)))[1]


async def test_a_received_job_is_queued_once(ledger: Ledger) -> None:
    job = await submitted(ledger)
    await ledger.mark_queued(job.id)
    await ledger.mark_queued(job.id)
    assert (await ledger.get(job.id)).state is JobState.QUEUED
    fast = await running(ledger)
    await ledger.mark_queued(fast.id)
    assert (await ledger.get(fast.id)).state is JobState.RUNNING
    assert await history(ledger, job) == ["job.received", "job.queued"]
    assert await history(ledger, fast) == ["job.received", "job.claimed"]


@pytest.mark.parametrize("end", [JobState.DEAD, JobState.FAILED, JobState.REJECTED])
async def test_a_person_gives_a_job_all_its_tries_again(
    ledger: Ledger, clock: Clock, end: JobState
) -> None:
    job = await running(ledger)
    if end is JobState.REJECTED:
        await ledger.reject(job, RefusalCode.COLOUR, "x", result_of(job))
    elif end is JobState.FAILED:
        await ledger.fail(job, RefusalCode.TIMED_OUT, "x")
    else:
        for _ in range(3):
            clock.move(LEASE_S + 1)
            job = await ledger.claim(job.id, "w", LEASE_S) if job.attempt < 3 else job
        clock.move(LEASE_S + 1)
        await ledger.exhaust()
    assert (await ledger.get(job.id)).state is end
    again = await ledger.retry_by_hand("radiology", job.id, OPERATOR)
    assert (again.state, again.code, again.reason) == (JobState.QUEUED, "", "")
    assert (again.result_key, again.result_bytes, again.result_header) == ("", 0, b"")
    last = (await ledger.events(job.id))[-1]
    assert (last.action, last.actor, last.role) == ("job.retried_by_hand", "op.y", "operator")
    for _ in range(3):
        fresh = await ledger.claim(job.id, "w", LEASE_S)
        assert fresh.attempt > job.attempt
        clock.move(LEASE_S + 1)
    with pytest.raises(LeaseLost):
        await ledger.claim(job.id, "w", LEASE_S)
    with pytest.raises(LeaseLost):
        await ledger.finish(job, result_of(job))


async def test_what_is_not_ended_badly_cannot_be_retried(ledger: Ledger) -> None:
    waiting, busy, ready = await submitted(ledger), await running(ledger), await done(ledger)
    withdrawn = await running(ledger)
    await ledger.fail(withdrawn, RefusalCode.TIMED_OUT, "x")
    await ledger.erase("radiology", [withdrawn.id], OPERATOR, "asked for")
    cancelled = await ledger.cancel("radiology", (await submitted(ledger)).id, OPERATOR)
    for job in (waiting, busy, ready, withdrawn, cancelled):
        before = await ledger.get(job.id)
        with pytest.raises(WrongState):
            await ledger.retry_by_hand("radiology", job.id, OPERATOR)
        assert await ledger.get(job.id) == before
    for tenant, job_id in (("cardiology", waiting.id), ("radiology", str(uuid.uuid4()))):
        with pytest.raises(NotFound):
            await ledger.retry_by_hand(tenant, job_id, OPERATOR)


async def test_erasure_takes_every_job_of_a_patient_in_one_step(ledger: Ledger) -> None:
    patient = {"patient": "p" * 64}
    waiting, busy, ready = (
        await submitted(ledger, **patient),
        await running(ledger, **patient),
        await done(ledger, **patient),
    )
    other = await done(ledger, patient="q" * 64)
    theirs = await ledger.jobs_of_patient("radiology", "p" * 64)
    assert {job.id for job in theirs} == {waiting.id, busy.id, ready.id}
    listed = await ledger.list_jobs("radiology", patient="p" * 64)
    assert {job.id for job in listed.jobs} == {waiting.id, busy.id, ready.id}
    assert await ledger.jobs_of_patient("cardiology", "p" * 64) == ()
    ids = [job.id for job in theirs]
    assert (await ledger.erase("cardiology", ids, OPERATOR, "wrong"))[0] == 0
    count, proof = await ledger.erase("radiology", ids, OPERATOR, "asked for")
    assert (count, proof.action, proof.detail, proof.actor) == (
        3,
        "patient.erased",
        "asked for",
        "op.y",
    )
    states = {job.id: (job.state, job.code) for job in (await ledger.known(ids)).values()}
    assert states == {
        waiting.id: (JobState.FAILED, "ERASED"),
        busy.id: (JobState.FAILED, "ERASED"),
        ready.id: (JobState.DONE, "ERASED"),
    }
    assert all(job.withdrawn for job in (await ledger.known(ids)).values())
    with pytest.raises(LeaseLost):
        await ledger.finish(busy, result_of(busy))
    assert (await ledger.get(other.id)).code == ""
    trail = await ledger.audit_events("radiology", proof.number - 4)
    assert [event.action for event in trail] == ["job.erased"] * 3 + ["patient.erased"]
    assert (await ledger.erase("radiology", ids, OPERATOR, "again"))[0] == 0
    histories = [await history(ledger, job) for job in theirs]
    assert [actions.count("job.erased") for actions in histories] == [1, 1, 1]


async def test_retention_takes_finished_jobs_only(ledger: Ledger, clock: Clock) -> None:
    old, busy, waiting = await done(ledger), await running(ledger), await submitted(ledger)
    clock.move(3600)
    young = await done(ledger)
    before = clock.now - timedelta(seconds=1800)
    assert [job.id for job in await ledger.expirable(before)] == [old.id]
    expired = await ledger.expire([old.id, busy.id, waiting.id])
    assert [(job.id, job.state, job.code) for job in expired] == [
        (old.id, JobState.DONE, "EXPIRED")
    ]
    assert expired[0].object_key == old.object_key
    assert await ledger.expirable(clock.now) != ()
    assert [job.id for job in await ledger.expirable(clock.now)] == [young.id]
    assert await ledger.expire([old.id]) == ()
    assert (await ledger.events(old.id))[-1].action == "job.expired"
    # Erasure still takes what has expired: backups hold it.
    assert (await ledger.erase("radiology", [old.id], OPERATOR, "asked for"))[0] == 1


async def test_rotation_goes_through_every_job_once_and_can_be_resumed(ledger: Ledger) -> None:
    old, new = "0" * 32, "1" * 32
    made = [await submitted(ledger, key_id=old) for _ in range(5)]
    await submitted(ledger, key_id=new)
    await ledger.erase("radiology", [made[0].id], OPERATOR, "asked for")
    wanted = sorted(job.id for job in made[1:])
    seen = []
    after = ""
    while page := await ledger.to_rewrap(old, after, limit=2):
        seen += [job.id for job in page]
        after = page[-1].id
    assert seen == wanted
    assert await ledger.set_rewrapped(wanted[0], old, new, b"rewrapped")
    assert not await ledger.set_rewrapped(wanted[0], old, new, b"twice")
    job = await ledger.get(wanted[0])
    assert (job.key_id, job.rewrapped_dek) == (new, b"rewrapped")
    assert job.updated_at == next(j for j in made if j.id == job.id).updated_at
    assert [job.id for job in await ledger.to_rewrap(old)] == wanted[1:]


async def test_every_object_that_a_job_has_is_named_once(ledger: Ledger) -> None:
    ready = [await done(ledger) for _ in range(4)]
    gone, waiting = await done(ledger), await submitted(ledger)
    await ledger.expire([gone.id])
    found: list[StoredObject] = []
    while page := await ledger.stored(found[-1].key if found else "", limit=3):
        assert len(page) <= 3
        found += page
    expected = [StoredObject(job.object_key, 1000, "a" * 64) for job in (*ready, waiting)]
    expected += [StoredObject(job.result_key, 77, "b" * 64) for job in ready]
    assert found == sorted(expected, key=lambda stored: stored.key)


async def test_claimable_names_what_a_queue_should_know(ledger: Ledger, clock: Clock) -> None:
    received, queued, urgent = (
        await submitted(ledger),
        await submitted(ledger),
        await submitted(ledger, priority=Priority.STAT),
    )
    await ledger.mark_queued(queued.id)
    await ledger.mark_queued(urgent.id)
    assert {job.id for job in await ledger.claimable(10)} == {queued.id, urgent.id}
    clock.move(11)
    everything = await ledger.claimable(10)
    assert {job.id for job in everything} == {received.id, queued.id, urgent.id}
    first = await ledger.claimable(10, limit=2)
    assert first + await ledger.claimable(10, first[-1].id, limit=2) == everything
    by_id = {job.id: job for job in everything}
    assert by_id[urgent.id].priority is Priority.STAT
    assert by_id[received.id].state is JobState.RECEIVED


async def test_an_upload_is_found_by_its_id(ledger: Ledger) -> None:
    job = await submitted(ledger)
    found = await ledger.job_of_upload("radiology", job.upload_id)
    assert found == job
    assert await ledger.job_of_upload("cardiology", job.upload_id) is None
