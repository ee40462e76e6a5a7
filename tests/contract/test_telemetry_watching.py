"""The gateway's gauges follow ledger, queue, store and certificates, each by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from client.crypto.certificates import make_authority, parse_certificate, revoke
from client.errors import RefusalCode, Transient
from client.jobqueue.memory import MemoryQueue
from client.jobs import JobState, Priority
from client.ledger.ledger import Ledger
from client.objectstore.localobjects import LocalObjectStore
from client.telemetry.metrics import GatewayMetrics
from client.telemetry.watching import GatewayWatch, WatchTimes
from tests.ledgers import Clock, new_job
from tests.scrapes import Scrape, scrape_registry

pytestmark = pytest.mark.contract

QUICK = WatchTimes(often_s=0.02, seldom_s=0.02, timeout_s=0.5)


class Queue(MemoryQueue):
    """A queue that can be away, or silent."""

    away = False
    silent = False

    async def size(self) -> Mapping[Priority, int]:
        if self.away:
            raise Transient("The queue is away (as the test wants it)")
        if self.silent:
            await asyncio.sleep(60)
        return await super().size()


class Store(LocalObjectStore):
    """A store that can be full."""

    full = False

    async def check(self) -> None:
        if self.full:
            raise Transient("No space is left (as the test wants it)")
        await super().check()


class Site:
    """What is watched, and what is told of it."""

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        self.ledger = ledger
        self.queue = Queue()
        self.store = Store(folder / "objects")
        self.registry = CollectorRegistry()
        self.certificate = folder / "ca.pem"
        self.authority = make_authority()
        self.certificate.write_bytes(self.authority.certificate)
        self.revocations = folder / "ca.crl.pem"

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        watch = GatewayWatch(
            GatewayMetrics(self.registry),
            self.ledger,
            self.queue,
            self.store,
            certificates={"authority": self.certificate, "revocations": self.revocations},
            times=QUICK,
        )
        watching = asyncio.create_task(watch.run())
        try:
            yield
            assert not watching.done()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def until(self, name: str, value: float, **labels: str) -> Scrape:
        async with asyncio.timeout(10):
            while (seen := scrape_registry(self.registry)).total(name, **labels) != value:
                await asyncio.sleep(0.02)
        return seen


@pytest.fixture
async def site(ledger: Ledger, tmp_path: Path) -> Site:
    return Site(ledger, tmp_path)


async def test_jobs_are_counted_by_state_and_priority(ledger: Ledger, clock: Clock) -> None:
    begun = clock.now
    waiting = [await ledger.submit(new_job(priority=Priority.STAT)) for _ in range(3)]
    clock.move(60)
    ended, _ = await ledger.submit(new_job())
    claimed = await ledger.claim(ended.id, "w", 30)
    await ledger.reject(claimed, RefusalCode.GANTRY_TILT, "tilted")
    await ledger.mark_queued(waiting[0][0].id)
    counts = {(c.state, c.priority): c for c in await ledger.work(JobState)}
    assert {key: count.number for key, count in counts.items()} == {
        (JobState.RECEIVED, Priority.STAT): 2,
        (JobState.QUEUED, Priority.STAT): 1,
        (JobState.REJECTED, Priority.ROUTINE): 1,
    }
    oldest = await ledger.get(waiting[1][0].id)
    assert counts[JobState.RECEIVED, Priority.STAT].oldest_at == oldest.created_at
    assert begun < oldest.created_at < clock.now - timedelta(seconds=60)
    assert await ledger.work((JobState.DEAD,)) == ()
    assert await ledger.work(()) == ()


async def test_the_gauges_follow(site: Site, clock: Clock) -> None:
    clock.now = datetime.now(UTC) - timedelta(seconds=100)
    job, _ = await site.ledger.submit(new_job())
    await site.queue.put(job.id, Priority.ROUTINE)
    async with site.watched():
        seen = await site.until("hounsfield_jobs", 1, state="received", priority="routine")
        assert 100 <= seen.total("hounsfield_oldest_waiting_seconds", priority="routine") < 130
        await site.until("hounsfield_queue_entries", 1, priority="routine")
        await site.until("hounsfield_store_up", 1)
        last = parse_certificate(site.authority.certificate).not_valid_after_utc.timestamp()
        name = "hounsfield_certificate_expiry_timestamp_seconds"
        seen = await site.until(name, last, certificate="authority")
        assert seen.total(name, certificate="revocations") == 0
        site.revocations.write_bytes(revoke(site.authority, 7, None))
        await site.until(name, last, certificate="revocations")
        claimed = await site.ledger.claim(job.id, "w", 30)
        await site.ledger.reject(claimed, RefusalCode.GANTRY_TILT, "tilted")
        seen = await site.until("hounsfield_jobs", 1, state="rejected", priority="routine")
        await site.until("hounsfield_oldest_unfinished_seconds", 0)


async def test_what_is_away_is_told_and_stops_nothing_else(site: Site) -> None:
    async with site.watched():
        for part in ("ledger", "queue", "store"):
            await site.until(f"hounsfield_{part}_up", 1)
        site.queue.away = True
        site.store.full = True
        await site.until("hounsfield_queue_up", 0)
        await site.until("hounsfield_store_up", 0)
        site.queue.away, site.queue.silent = False, True
        await asyncio.sleep(2 * QUICK.timeout_s)
        site.certificate.unlink()
        await site.ledger.submit(new_job())
        seen = await site.until("hounsfield_jobs", 1)
        assert seen.total("hounsfield_queue_up") == 0
        assert seen.total("hounsfield_ledger_up") == 1
        site.queue.silent = site.store.full = False
        await site.until("hounsfield_queue_up", 1)
        await site.until("hounsfield_store_up", 1)
