"""The ledger's promises, the same on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, timedelta
from pathlib import Path

import pytest

from client.errors import (
    ConfigurationError,
    Conflict,
    LeaseLost,
    NotFound,
    RefusalCode,
    Transient,
)
from client.jobs import Job, JobState, Priority
from client.ledger.ledger import Ledger
from client.ledger.records import Backlog
from tests.ledgers import AUDIT_KEY, LEASE_S, Clock, history, new_job, result_of, submitted

pytestmark = pytest.mark.contract


async def test_a_submitted_job_is_as_it_was_sent(ledger: Ledger, clock: Clock) -> None:
    new = new_job(priority=Priority.STAT)
    job, created = await ledger.submit(new)
    assert created
    assert job == await ledger.get(new.id, "radiology") == await ledger.get(new.id)
    assert job == Job(
        id=new.id,
        tenant="radiology",
        upload_id=new.upload_id,
        priority=Priority.STAT,
        model="brain_mr",
        state=JobState.RECEIVED,
        attempt=0,
        stage="",
        progress=0.0,
        code="",
        reason="",
        object_key=new.stored.key,
        object_bytes=1000,
        header=b"header",
        result_key="",
        result_bytes=0,
        result_header=b"",
        created_at=job.created_at,
        updated_at=job.created_at,
        lease_expires_at=None,
    )
    assert job.created_at.tzinfo is UTC
    assert clock.now - job.created_at < timedelta(milliseconds=1)


async def test_the_way_to_done(ledger: Ledger) -> None:
    job = await submitted(ledger)
    claimed = await ledger.claim(job.id, "worker-1", LEASE_S)
    assert (claimed.state, claimed.attempt) == (JobState.RUNNING, 1)
    await ledger.heartbeat(claimed, "infer", 0.5, LEASE_S)
    running = await ledger.get(job.id)
    assert (running.stage, running.progress) == ("infer", 0.5)
    done = await ledger.finish(claimed, result_of(claimed))
    assert (done.state, done.progress, done.stage) == (JobState.DONE, 1.0, "")
    assert (done.result_key, done.result_bytes) == (f"results/{job.id}-1", 77)
    assert done.result_header == b"result"
    assert done.lease_expires_at is None
    assert await history(ledger, job) == ["job.received", "job.claimed", "job.finished"]


async def test_rejection_and_failure_keep_their_reason(ledger: Ledger) -> None:
    first = await ledger.claim((await submitted(ledger)).id, "w", LEASE_S)
    rejected = await ledger.reject(first, RefusalCode.COLOUR, "It is in colour.", result_of(first))
    assert (rejected.state, rejected.code) == (JobState.REJECTED, "COLOUR")
    assert (rejected.reason, rejected.result_bytes) == ("It is in colour.", 77)
    second = await ledger.claim((await submitted(ledger)).id, "w", LEASE_S)
    failed = await ledger.fail(second, RefusalCode.TIMED_OUT, "It took too long.")
    assert (failed.state, failed.code) == (JobState.FAILED, "TIMED_OUT")
    assert (await ledger.events(second.id))[-1].detail == "It took too long."


async def test_the_same_upload_is_one_job(ledger: Ledger) -> None:
    upload = str(uuid.uuid4())
    answers = await asyncio.gather(*(ledger.submit(new_job(upload_id=upload)) for _ in range(100)))
    assert len({job.id for job, _ in answers}) == 1
    assert sum(created for _, created in answers) == 1
    with pytest.raises(Conflict):
        await ledger.submit(new_job(upload_id=upload, content_sha256="d" * 64))
    with pytest.raises(Conflict):
        await ledger.find_upload("radiology", upload, "d" * 64)
    other, created = await ledger.submit(new_job(tenant="cardiology", upload_id=upload))
    assert created
    assert other.id != answers[0][0].id
    assert await ledger.find_upload("neurology", upload, "c" * 64) is None


async def test_one_of_many_claims_wins(ledger: Ledger) -> None:
    job = await submitted(ledger)
    claims = await asyncio.gather(
        *(ledger.claim(job.id, f"w{n}", LEASE_S) for n in range(16)), return_exceptions=True
    )
    assert sum(isinstance(c, Job) for c in claims) == 1
    assert sum(isinstance(c, LeaseLost) for c in claims) == 15


async def test_no_update_is_lost_between_writers(ledger: Ledger) -> None:
    jobs = [await submitted(ledger) for _ in range(6)]

    async def work(job: Job) -> None:
        claimed = await ledger.claim(job.id, "w", LEASE_S)
        for step in range(5):
            await ledger.heartbeat(claimed, "infer", step / 5, LEASE_S)
        await ledger.finish(claimed, result_of(claimed))

    await asyncio.gather(*map(work, jobs))
    assert await ledger.counts() == {JobState.DONE: 6}


async def test_a_stale_attempt_can_write_nothing(ledger: Ledger, clock: Clock) -> None:
    job = await submitted(ledger)
    stale = await ledger.claim(job.id, "first", LEASE_S)
    with pytest.raises(LeaseLost):
        await ledger.claim(job.id, "second", LEASE_S)
    clock.move(LEASE_S + 1)
    fresh = await ledger.claim(job.id, "second", LEASE_S)
    assert fresh.attempt == 2
    for write in (
        ledger.heartbeat(stale, "infer", 0.9, LEASE_S),
        ledger.finish(stale, result_of(stale)),
        ledger.reject(stale, RefusalCode.COLOUR, "x"),
        ledger.fail(stale, RefusalCode.COLOUR, "x"),
        ledger.retry(stale, "x"),
        ledger.release(stale),
    ):
        with pytest.raises(LeaseLost):
            await write
    assert await ledger.get(job.id) == fresh
    await ledger.finish(fresh, result_of(fresh))
    with pytest.raises(LeaseLost):
        await ledger.claim(job.id, "third", LEASE_S)


async def test_heartbeats_keep_a_lease_and_a_late_worker_that_nobody_replaced_may_finish(
    ledger: Ledger, clock: Clock
) -> None:
    job = await submitted(ledger)
    claimed = await ledger.claim(job.id, "w", LEASE_S)
    for _ in range(3):
        clock.move(LEASE_S - 1)
        await ledger.heartbeat(claimed, "infer", 0.1, LEASE_S)
    with pytest.raises(LeaseLost):
        await ledger.claim(job.id, "other", LEASE_S)
    clock.move(10 * LEASE_S)
    assert (await ledger.finish(claimed, result_of(claimed))).state is JobState.DONE


async def test_retries_wait_and_end(ledger: Ledger, clock: Clock) -> None:
    job = await submitted(ledger)
    for attempt in (1, 2, 3):
        claimed = await ledger.claim(job.id, "w", LEASE_S)
        assert claimed.attempt == attempt
        back = await ledger.retry(claimed, "The model server was away.", delay_s=10)
        if attempt < 3:
            assert back.state is JobState.QUEUED
            with pytest.raises(LeaseLost):
                await ledger.claim(job.id, "w", LEASE_S)
            clock.move(11)
    assert (back.state, back.code) == (JobState.DEAD, "RETRIES_EXHAUSTED")
    assert "The model server was away." in back.reason
    assert (await history(ledger, job))[-2:] == ["job.claimed", "job.dead"]


async def test_vanishing_workers_use_up_the_attempts(ledger: Ledger, clock: Clock) -> None:
    job, other = await submitted(ledger), await submitted(ledger)
    for _ in range(3):
        await ledger.claim(job.id, "w", LEASE_S)
        assert await ledger.exhaust() == ()
        clock.move(LEASE_S + 1)
    failed = await ledger.exhaust()
    assert [(f.id, f.code) for f in failed] == [(job.id, "RETRIES_EXHAUSTED")]
    assert (await ledger.get(other.id)).state is JobState.RECEIVED
    with pytest.raises(LeaseLost):
        await ledger.claim(job.id, "w", LEASE_S)


async def test_a_claim_of_a_used_up_job_ends_it(ledger: Ledger, clock: Clock) -> None:
    job = await submitted(ledger)
    for _ in range(3):
        await ledger.claim(job.id, "w", LEASE_S)
        clock.move(LEASE_S + 1)
    with pytest.raises(LeaseLost):
        await ledger.claim(job.id, "w", LEASE_S)
    assert (await ledger.get(job.id)).state is JobState.DEAD


async def test_a_released_job_is_not_punished(ledger: Ledger) -> None:
    job = await submitted(ledger)
    for attempt in range(1, 8):
        claimed = await ledger.claim(job.id, "w", LEASE_S)
        assert claimed.attempt == attempt
        assert (await ledger.release(claimed)).state is JobState.QUEUED


async def test_cancel(ledger: Ledger) -> None:
    waiting = await submitted(ledger)
    assert (await ledger.cancel("radiology", waiting.id)).state is JobState.CANCELLED
    running = await ledger.claim((await submitted(ledger)).id, "w", LEASE_S)
    assert (await ledger.cancel("radiology", running.id)).state is JobState.CANCELLED
    with pytest.raises(LeaseLost):
        await ledger.heartbeat(running, "infer", 0.5, LEASE_S)
    done = await ledger.claim((await submitted(ledger)).id, "w", LEASE_S)
    await ledger.finish(done, result_of(done))
    assert (await ledger.cancel("radiology", done.id)).state is JobState.DONE
    for tenant, job_id in (("cardiology", waiting.id), ("radiology", str(uuid.uuid4()))):
        with pytest.raises(NotFound):
            await ledger.cancel(tenant, job_id)


async def test_tenants_see_only_their_own(ledger: Ledger) -> None:
    job = await submitted(ledger)
    with pytest.raises(NotFound) as foreign:
        await ledger.get(job.id, "cardiology")
    with pytest.raises(NotFound) as absent:
        await ledger.get("0" * 36, "cardiology")
    assert str(foreign.value).replace(job.id, "X") == str(absent.value).replace("0" * 36, "X")
    assert (await ledger.list_jobs("cardiology")).jobs == ()


async def test_pages_hold_every_job_once_newest_first(ledger: Ledger) -> None:
    made = [await submitted(ledger) for _ in range(7)]
    await submitted(ledger, tenant="cardiology")
    seen: list[str] = []
    token = ""
    while True:
        page = await ledger.list_jobs("radiology", page_size=3, page_token=token)
        seen += [job.id for job in page.jobs]
        token = page.next_token
        if not token:
            break
    assert seen == [job.id for job in reversed(made)]
    exact = await ledger.list_jobs("radiology", page_size=7)
    assert (len(exact.jobs), exact.next_token) == (7, "")
    await ledger.claim(made[2].id, "w", LEASE_S)
    running = await ledger.list_jobs("radiology", state=JobState.RUNNING)
    assert [job.id for job in running.jobs] == [made[2].id]
    with pytest.raises(NotFound):
        await ledger.list_jobs("cardiology", page_token=made[0].id)


async def test_claimable_finds_exactly_the_forgotten(ledger: Ledger, clock: Clock) -> None:
    waiting, lapsed, held, done, delayed = [await submitted(ledger) for _ in range(5)]
    await ledger.claim(lapsed.id, "w", LEASE_S)
    await ledger.claim(held.id, "w", 10 * LEASE_S)
    finished = await ledger.claim(done.id, "w", LEASE_S)
    await ledger.finish(finished, result_of(finished))
    await ledger.retry(await ledger.claim(delayed.id, "w", LEASE_S), "x", delay_s=1000)
    assert await ledger.claimable(waiting_s=10) == ()
    clock.move(LEASE_S + 11)
    assert {j.id for j in await ledger.claimable(waiting_s=10)} == {waiting.id, lapsed.id}
    assert len(await ledger.claimable(waiting_s=10, limit=1)) == 1
    assert await ledger.backlog() == Backlog(jobs=4, bytes=4000)
    assert set(await ledger.known([waiting.id, "0" * 36])) == {waiting.id}


async def test_two_processes_may_start_at_once_and_find_everything_again(
    url: str, clock: Clock
) -> None:
    async with (
        Ledger(url, AUDIT_KEY, clock=clock) as one,
        Ledger(url, AUDIT_KEY, clock=clock) as two,
    ):
        job = await submitted(one)
        assert await two.get(job.id) == job
        await two.ping()
    ledgers = [Ledger(url, AUDIT_KEY, clock=clock) for _ in range(3)]
    await asyncio.gather(*(ledger.__aenter__() for ledger in ledgers))
    assert await ledgers[0].get(job.id) == job
    for ledger in ledgers:
        await ledger.__aexit__(None, None, None)


async def test_an_absent_database_is_transient() -> None:
    with pytest.raises(Transient):
        await Ledger("postgresql+psycopg://x@127.0.0.1:1/none", AUDIT_KEY).__aenter__()


@pytest.mark.parametrize(
    "wrong", ["", "mysql://x", "sqlite:////tmp/x", "sqlite+aiosqlite:///relative", "postgresql://x"]
)
def test_a_wrong_url_is_told(wrong: str) -> None:
    with pytest.raises(ConfigurationError):
        Ledger(wrong, AUDIT_KEY)


async def test_the_sqlite_file_is_private_and_set_to_keep_what_it_acknowledged(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state" / "ledger.sqlite"
    async with Ledger(f"sqlite+aiosqlite:///{path}", AUDIT_KEY) as ledger:
        assert path.stat().st_mode & 0o777 == 0o600
        async with ledger._table._database._engine.connect() as connection:
            values = {
                name: (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one()
                for name in (
                    "synchronous",
                    "foreign_keys",
                    "journal_mode",
                    "busy_timeout",
                    "secure_delete",
                )
            }
    assert values["synchronous"] == 2
    assert values["foreign_keys"] == 1
    assert values["secure_delete"] == 1
    assert values["journal_mode"] in ("truncate", "wal")
    assert values["busy_timeout"] == 10_000
