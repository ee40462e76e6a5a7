"""Watches that wait at the same time share one query, and each gets its own job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from client.errors import NotFound, Transient
from client.ingest.watching import Lookout
from client.jobqueue.memory import MemoryQueue
from client.jobs import Job
from client.ledger.ledger import Ledger
from tests.ledgers import AUDIT_KEY, LEASE_S, submitted

pytestmark = pytest.mark.unit

INTERVAL_S = 0.05


class AwayOnce(MemoryQueue):
    """Refuses to be listened to, the first time."""

    def __init__(self) -> None:
        super().__init__()
        self._away = True

    async def ends(self) -> AsyncGenerator[str]:
        if self._away:
            self._away = False
            raise Transient("The queue is away.")
        async for job_id in super().ends():
            yield job_id


@asynccontextmanager
async def listening(lookout: Lookout, queue: MemoryQueue) -> AsyncIterator[None]:
    task = asyncio.create_task(lookout.listen(queue))
    await asyncio.sleep(0.05)
    try:
        yield
    finally:
        task.cancel()


class CountedLedger(Ledger):
    """Counts its looks."""

    looks = 0

    async def known(self, job_ids: Collection[str]) -> dict[str, Job]:  # type: ignore[override]
        self.looks += 1
        return await super().known(job_ids)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[CountedLedger]:
    async with CountedLedger(f"sqlite+aiosqlite:///{tmp_path / 'l.sqlite'}", AUDIT_KEY) as opened:
        yield opened


async def test_fifty_watches_cost_one_look(ledger: CountedLedger) -> None:
    jobs = [await submitted(ledger) for _ in range(50)]
    lookout = Lookout(ledger, INTERVAL_S)
    for looks in (1, 2):
        assert await asyncio.gather(*(lookout.next(job.id) for job in jobs)) == jobs
        assert ledger.looks == looks


async def test_the_next_look_finds_what_changed_meanwhile(ledger: CountedLedger) -> None:
    job = await submitted(ledger)
    lookout = Lookout(ledger, INTERVAL_S)
    watching = asyncio.create_task(lookout.next(job.id))
    await asyncio.sleep(0)
    claimed = await ledger.claim(job.id, "w", LEASE_S)
    assert await watching == claimed


async def test_a_watch_that_ends_does_not_end_the_others(ledger: CountedLedger) -> None:
    job = await submitted(ledger)
    lookout = Lookout(ledger, INTERVAL_S)
    watches = [asyncio.create_task(lookout.next(job.id)) for _ in range(3)]
    await asyncio.sleep(0)
    watches[0].cancel()
    assert await asyncio.gather(*watches[1:]) == [job, job]
    assert watches[0].cancelled()


async def test_the_last_watch_ends_the_look_and_the_next_one_begins_anew(
    ledger: CountedLedger,
) -> None:
    job = await submitted(ledger)
    lookout = Lookout(ledger, INTERVAL_S)
    watching = asyncio.create_task(lookout.next(job.id))
    await asyncio.sleep(0)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert await lookout.next(job.id) == job
    assert ledger.looks == 1


async def test_a_job_that_is_not_there_is_said_to_that_watch_alone(ledger: CountedLedger) -> None:
    job = await submitted(ledger)
    lookout = Lookout(ledger, INTERVAL_S)
    told = await asyncio.gather(
        lookout.next(job.id), lookout.next("no such job"), return_exceptions=True
    )
    assert told[0] == job
    assert isinstance(told[1], NotFound)


async def test_a_young_watch_does_not_wait_for_an_old_ones_look(ledger: CountedLedger) -> None:
    old, young = [await submitted(ledger) for _ in range(2)]
    lookout = Lookout(ledger, interval_s=30.0)
    waiting = asyncio.create_task(lookout.next(old.id, watched_s=600.0))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert await lookout.next(young.id, watched_s=0.1) == young
        assert await waiting == old
    assert ledger.looks == 1


async def test_an_old_watch_looks_seldom(ledger: CountedLedger) -> None:
    job = await submitted(ledger)
    lookout = Lookout(ledger, interval_s=30.0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await lookout.next(job.id, watched_s=60.0)
    assert ledger.looks == 0


async def test_an_end_that_is_told_is_looked_at_at_once(ledger: CountedLedger) -> None:
    ended, other = [await submitted(ledger) for _ in range(2)]
    lookout, queue = Lookout(ledger, interval_s=30.0), MemoryQueue()
    async with asyncio.timeout(5), listening(lookout, queue):
        watching = asyncio.create_task(lookout.next(ended.id, watched_s=600.0))
        await asyncio.sleep(0.05)
        await queue.tell_end(other.id)
        await asyncio.sleep(0.05)
        assert not watching.done()
        claimed = await ledger.claim(ended.id, "w", LEASE_S)
        await queue.tell_end(ended.id)
        assert await watching == claimed


async def test_an_end_between_two_looks_is_remembered_once(ledger: CountedLedger) -> None:
    job = await submitted(ledger)
    lookout, queue = Lookout(ledger, interval_s=30.0), MemoryQueue()
    async with listening(lookout, queue):
        await queue.tell_end(job.id)
        await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            assert await lookout.next(job.id, watched_s=600.0) == job
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await lookout.next(job.id, watched_s=600.0)


async def test_a_queue_that_was_away_is_listened_to_again(
    ledger: CountedLedger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("client.ingest.watching._DEAF_S", 0.0)
    job = await submitted(ledger)
    lookout, queue = Lookout(ledger, interval_s=30.0), AwayOnce()
    async with asyncio.timeout(5), listening(lookout, queue):
        watching = asyncio.create_task(lookout.next(job.id, watched_s=600.0))
        await asyncio.sleep(0.05)
        await queue.tell_end(job.id)
        assert await watching == job
    assert "looks go on: The queue is away." in caplog.text
