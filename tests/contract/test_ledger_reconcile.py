"""Whatever the queue loses, the reconciler brings back from the ledger; nothing else is touched."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from client.errors import Transient
from client.jobqueue.base import JobQueue
from client.jobqueue.embedded import embedded_queue
from client.jobqueue.memory import MemoryQueue
from client.jobqueue.streams import StreamsQueue
from client.jobs import Job, JobState, Priority
from client.ledger.ledger import Ledger
from client.ledger.records import JobResult, NewJob
from client.objectstore.objects import ObjectStore, result_key, study_key
from client.objectstore.stores import open_store
from client.telemetry.metrics import GatewayMetrics
from client.upkeep.reconcile import Reconciler, ReconcilerSettings
from tests.scrapes import scrape_registry

pytestmark = pytest.mark.contract

LEASE_S = 30.0


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def ledger(tmp_path: Path, clock: Clock) -> AsyncIterator[Ledger]:
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path}/l.sqlite", bytes(32), clock=clock) as opened:
        yield opened


@pytest.fixture(params=["memory", "streams"])
async def queue(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[JobQueue]:
    if request.param == "memory":
        yield MemoryQueue()
        return
    async with embedded_queue(tmp_path / "q") as url, StreamsQueue(url, "one") as opened:
        yield opened


@pytest.fixture
def store() -> ObjectStore:
    return open_store("memory://")


@pytest.fixture
def reconciler(ledger: Ledger, queue: JobQueue, store: ObjectStore) -> Reconciler:
    return Reconciler(ledger, queue, store)


async def stream(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def submitted(
    ledger: Ledger, store: ObjectStore, priority: Priority = Priority.ROUTINE
) -> Job:
    job_id = str(uuid.uuid4())
    stored = await store.put(study_key(job_id), stream(b"study"))
    new = NewJob(job_id, "a", str(uuid.uuid4()), priority, "", "c" * 64, stored, b"")
    return (await ledger.submit(new))[0]


async def finished(ledger: Ledger, store: ObjectStore, job: Job) -> Job:
    claimed = await ledger.claim(job.id, "w", LEASE_S)
    stored = await store.put(result_key(job.id, claimed.attempt), stream(b"result"))
    return await ledger.finish(claimed, JobResult(stored, b""))


async def drain(queue: JobQueue) -> list[str]:
    taken = []
    while entry := await queue.take(0):
        taken.append(entry.job_id)
        await queue.ack(entry)
    return taken


async def test_a_lost_queue_is_filled_again_in_order(
    ledger: Ledger, queue: JobQueue, store: ObjectStore, reconciler: Reconciler, clock: Clock
) -> None:
    jobs = [await submitted(ledger, store) for _ in range(3)]
    stat = await submitted(ledger, store, Priority.STAT)
    assert (await reconciler.once()).requeued == ()
    clock.move(11)
    assert set((await reconciler.once()).requeued) == {stat.id, *(j.id for j in jobs)}
    assert (await reconciler.once()).requeued == ()
    assert (await drain(queue))[0] == stat.id


async def test_what_a_look_changed_and_when_it_ended_is_told(
    ledger: Ledger, queue: JobQueue, store: ObjectStore, clock: Clock
) -> None:
    registry = CollectorRegistry()
    reconciler = Reconciler(ledger, queue, store, metrics=GatewayMetrics(registry))
    began = time.time()
    await submitted(ledger, store)
    clock.move(11)
    assert len((await reconciler.once()).requeued) == 1
    seen = scrape_registry(registry)
    assert seen.total("hounsfield_requeued_total") == 1
    assert seen.total("hounsfield_dead_total") == 0
    assert began <= seen.total("hounsfield_last_sweep_timestamp_seconds") <= time.time()


async def test_queued_running_and_finished_jobs_are_left_alone(
    ledger: Ledger, queue: JobQueue, store: ObjectStore, reconciler: Reconciler, clock: Clock
) -> None:
    queued, running, done = [await submitted(ledger, store) for _ in range(3)]
    await queue.put(queued.id, queued.priority)
    await finished(ledger, store, done)
    clock.move(11)
    await ledger.claim(running.id, "w", LEASE_S)
    assert (await reconciler.once()).requeued == ()


async def test_a_vanished_workers_job_comes_back_and_finally_is_dead(
    ledger: Ledger, queue: JobQueue, store: ObjectStore, reconciler: Reconciler, clock: Clock
) -> None:
    job = await submitted(ledger, store)
    for attempt in range(1, 11):
        clock.move(11)
        assert (await reconciler.once()).requeued == (job.id,)
        assert await drain(queue) == [job.id]
        assert (await ledger.claim(job.id, "w", LEASE_S)).attempt == attempt
        clock.move(LEASE_S)
    report = await reconciler.once()
    assert (report.requeued, report.dead) == ((), (job.id,))
    ended = await ledger.get(job.id)
    assert (ended.state, ended.code) == (JobState.DEAD, "RETRIES_EXHAUSTED")


async def test_the_sweep_deletes_what_no_job_has(
    ledger: Ledger, queue: JobQueue, store: ObjectStore
) -> None:
    done = await finished(ledger, store, await submitted(ledger, store))
    waiting = await submitted(ledger, store)
    kept = {done.object_key, done.result_key, waiting.object_key, result_key(waiting.id, 1)}
    orphans = {study_key(str(uuid.uuid4())), result_key(str(uuid.uuid4()), 1)}
    orphans.add(result_key(done.id, 7))
    for key in (orphans | kept) - {done.object_key, done.result_key, waiting.object_key}:
        await store.put(key, stream(b"x"))
    young = Reconciler(ledger, queue, store)
    assert await young.sweep() == 0
    old = Reconciler(ledger, queue, store, ReconcilerSettings(orphan_age_s=-60))
    assert await old.sweep() == len(orphans)
    left = {e.key for prefix in ("studies", "results") async for e in store.list(prefix)}
    assert left == kept


async def test_the_loop_outlives_an_absent_queue(
    ledger: Ledger, store: ObjectStore, tmp_path: Path, clock: Clock
) -> None:
    job = await submitted(ledger, store)
    clock.move(11)
    folder = tmp_path / "late"
    settings = ReconcilerSettings(interval_s=0.05)
    async with StreamsQueue(f"unix://{folder}/valkey.sock", "one") as queue:
        reconciler = Reconciler(ledger, queue, store, settings)
        with pytest.raises(Transient):
            await reconciler.once()
        running = asyncio.create_task(reconciler.run())
        await asyncio.sleep(0.15)
        async with embedded_queue(folder) as url:
            assert url == f"unix://{folder}/valkey.sock"
            entry = await queue.take(5)
            running.cancel()
        assert entry is not None
        assert entry.job_id == job.id
