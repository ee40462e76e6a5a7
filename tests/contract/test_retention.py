"""Studies and results go when their time is over; the job, its history and the rest stay."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from client.errors import NotFound, RefusalCode, Transient, WrongState
from client.jobqueue.memory import MemoryQueue
from client.jobs import Actor, Job, JobState, Priority
from client.ledger.ledger import Ledger
from client.ledger.records import JobResult, NewJob
from client.objectstore.objects import ObjectStore, result_key, study_key
from client.objectstore.stores import open_store
from client.upkeep.reconcile import Reconciler, ReconcilerSettings
from client.upkeep.retention import RetentionRules, apply_retention

pytestmark = pytest.mark.contract

PERSON = Actor("dr.x", "operator")
START = datetime(2030, 1, 1, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def ledger(tmp_path: Path, clock: Clock) -> AsyncIterator[Ledger]:
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path}/l.sqlite", bytes(32), clock=clock) as opened:
        yield opened


@pytest.fixture
def store() -> ObjectStore:
    return open_store("memory://")


async def stream(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def submitted(ledger: Ledger, store: ObjectStore) -> Job:
    job_id = str(uuid.uuid4())
    stored = await store.put(study_key(job_id), stream(b"study"))
    new = NewJob(job_id, "a", str(uuid.uuid4()), Priority.ROUTINE, "", "c" * 64, stored, b"")
    return (await ledger.submit(new))[0]


async def done(ledger: Ledger, store: ObjectStore) -> Job:
    claimed = await ledger.claim((await submitted(ledger, store)).id, "w", 30.0)
    stored = await store.put(result_key(claimed.id, claimed.attempt), stream(b"result"))
    return await ledger.finish(claimed, JobResult(stored, b""))


async def rejected(ledger: Ledger, store: ObjectStore) -> Job:
    claimed = await ledger.claim((await submitted(ledger, store)).id, "w", 30.0)
    return await ledger.reject(claimed, RefusalCode.NO_MODEL, "No model takes it.")


async def keys(store: ObjectStore) -> set[str]:
    return {entry.key async for entry in store.list("")}


async def actions(ledger: Ledger, job: Job) -> list[str]:
    return [event.action for event in await ledger.events(job.id)]


async def test_nothing_goes_by_default(ledger: Ledger, store: ObjectStore) -> None:
    job = await done(ledger, store)
    later = START + timedelta(days=100_000)
    assert await apply_retention(RetentionRules(), ledger, store, later) == 0
    assert await keys(store) == {job.object_key, job.result_key}


async def test_the_study_goes_first_and_the_result_in_its_own_time(
    ledger: Ledger, store: ObjectStore, clock: Clock
) -> None:
    rules = RetentionRules(study_days=0.5, result_days=2)
    job, failed = await done(ledger, store), await rejected(ledger, store)
    waiting = await submitted(ledger, store)

    clock.now = START + timedelta(days=0.49)
    assert await apply_retention(rules, ledger, store, clock.now) == 0

    clock.now = START + timedelta(days=0.51)
    assert await apply_retention(rules, ledger, store, clock.now) == 2
    assert await keys(store) == {job.result_key, waiting.object_key}
    kept = await ledger.get(job.id)
    assert (kept.state, kept.code, kept.object_key) == (JobState.DONE, "", "")
    assert kept.updated_at == START
    assert (await ledger.events(job.id))[-1].at == clock.now
    with pytest.raises(WrongState, match="its study is gone"):
        await ledger.retry_by_hand("a", failed.id, PERSON)

    clock.now = START + timedelta(days=2.01)  # counted from the job's end, not from the first step
    assert await apply_retention(rules, ledger, store, clock.now) == 1
    assert await keys(store) == {waiting.object_key}
    expired = await ledger.get(job.id)
    assert (expired.state, expired.code) == (JobState.DONE, RefusalCode.EXPIRED)
    assert (await actions(ledger, job))[-2:] == ["job.study_expired", "job.expired"]
    assert {stored.key for stored in await ledger.stored()} == {waiting.object_key}
    assert all(report.intact for report in await ledger.verify_chains())
    assert await apply_retention(rules, ledger, store, clock.now) == 0


async def test_many_jobs_go_in_pages(ledger: Ledger, store: ObjectStore, clock: Clock) -> None:
    for _ in range(12):
        await done(ledger, store)
    clock.now += timedelta(days=2)
    page = await ledger.expirable(clock.now, limit=5)
    assert len(page) == 5
    assert await apply_retention(RetentionRules(result_days=1), ledger, store, clock.now) == 24
    assert await keys(store) == set()


class FailingStore(ObjectStore):
    """Is away when something is to be deleted."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store._store)

    async def delete(self, key: str) -> None:
        raise Transient("away")


@pytest.mark.parametrize(
    "rules", [RetentionRules(study_days=1), RetentionRules(result_days=1)], ids=["study", "all"]
)
async def test_what_a_crash_left_in_the_store_is_swept(
    ledger: Ledger, store: ObjectStore, clock: Clock, rules: RetentionRules
) -> None:
    job = await done(ledger, store)
    clock.now += timedelta(days=2)
    with pytest.raises(Transient):
        await apply_retention(rules, ledger, FailingStore(store), clock.now)
    assert await keys(store) == {job.object_key, job.result_key}
    settings = ReconcilerSettings(orphan_age_s=0, retention=rules)
    await Reconciler(ledger, MemoryQueue(), store, settings).sweep()
    assert await keys(store) == ({job.result_key} if rules.study_days else set())


async def test_the_sweep_applies_the_rules(
    ledger: Ledger, store: ObjectStore, clock: Clock
) -> None:
    clock.now = datetime.now(UTC) - timedelta(days=1)
    job = await done(ledger, store)
    settings = ReconcilerSettings(retention=RetentionRules(result_days=0.5))
    assert await Reconciler(ledger, MemoryQueue(), store, settings).sweep() == 2
    with pytest.raises(NotFound):
        await anext(store.get(job.result_key))
