"""The deployed KEDA triggers on a real queue: never no workers while work exists.

Beside them, on the same queue at the same moment, the two triggers that look as good and are not:
by lag (``lagCount``) and by pending entries (``pendingEntriesCount``). Each would send the last
worker away, or never call the first one, in one of these situations.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from client.jobqueue.embedded import embedded_queue
from client.jobqueue.keys import GROUP, STREAMS
from client.jobqueue.streams import StreamsQueue
from client.jobs import Priority
from client.ledger.ledger import Ledger
from client.objectstore.stores import open_store
from client.upkeep.reconcile import Reconciler, ReconcilerSettings
from loadtest.keda import (
    UNKNOWN_LAG,
    KedaAutoscaler,
    Measure,
    ScaledObject,
    read_scaled_object,
)
from loadtest.streamreading import read_trigger
from tests.ledgers import AUDIT_KEY, Clock, new_job

pytestmark = pytest.mark.integration

MANIFESTS = Path(__file__).parents[2] / "k8s" / "components" / "autoscaling"
LONG_S = 100_000.0
"""Longer than any cool-down."""


def deployed() -> ScaledObject:
    """The ScaledObject as it is deployed, its schedule left out: the queue alone must do."""
    found = [
        path for path in sorted(MANIFESTS.glob("*.yaml")) if "ScaledObject" in path.read_text()
    ]
    assert len(found) == 1, f"one ScaledObject expected in {MANIFESTS}, found {found}"
    return replace(read_scaled_object(found[0]), crons=())


def instead(spec: ScaledObject, measure: Measure) -> ScaledObject:
    """The same with another way of reading the same streams."""
    streams = tuple(replace(trigger, group=GROUP, measure=measure) for trigger in spec.streams)
    return replace(spec, streams=streams, fallback=None)


@dataclass
class Scaled:
    """What one kind of trigger makes of a queue, long after the last look."""

    client: redis.asyncio.Redis
    spec: ScaledObject

    async def values(self) -> list[float | None]:
        return [await read_trigger(self.client, trigger) for trigger in self.spec.streams]

    async def replicas(self, before: int) -> int:
        """After KEDA's poll and the HPA's sync, the cool-down being over."""
        autoscaler, values = KedaAutoscaler(self.spec), await self.values()
        polled = autoscaler.poll(LONG_S, before, values)
        return autoscaler.sync(LONG_S, polled, values)


@dataclass
class Trio:
    """The deployed triggers and the two that must not be."""

    deployed: Scaled
    by_lag: Scaled
    by_pending: Scaled

    async def replicas(self, before: int) -> tuple[bool, bool, bool]:
        """Whether there is any worker: deployed, by lag, by pending entries."""
        each = (self.deployed, self.by_lag, self.by_pending)
        one, two, three = [await scaled.replicas(before) > 0 for scaled in each]
        return one, two, three


class Site:
    """A server in a folder, which may be stopped and started, and its clients."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._owned = AsyncExitStack()

    async def start(self) -> None:
        self.url = await self._owned.enter_async_context(embedded_queue(self.folder))
        self.client = redis.asyncio.Redis.from_url(self.url, protocol=2)
        self._owned.push_async_callback(self.client.aclose)
        spec = deployed()
        self.trio = Trio(
            Scaled(self.client, spec),
            Scaled(self.client, instead(spec, Measure.LAG)),
            Scaled(self.client, instead(spec, Measure.PENDING)),
        )

    async def stop(self) -> None:
        await self._owned.aclose()

    def queue(self, consumer: str) -> StreamsQueue:
        return StreamsQueue(self.url, consumer)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path / "q")
    await site.start()
    try:
        yield site
    finally:
        await site.stop()


async def fill(site: Site, studies: int, priority: Priority = Priority.ROUTINE) -> None:
    async with site.queue("gateway") as queue:
        for number in range(studies):
            await queue.put(f"job-{number}", priority)


async def take_and_die(site: Site, studies: int) -> None:
    """A worker that takes work and never says another word."""
    worker = site.queue("killed")
    await worker.__aenter__()
    taken = [await worker.take(0) for _ in range(studies)]
    assert None not in taken
    await worker._redis.aclose()


def test_the_deployed_triggers_read_both_streams_by_length() -> None:
    spec = deployed()
    assert {trigger.stream for trigger in spec.streams} == {*STREAMS.values()}
    assert {trigger.measure for trigger in spec.streams} == {Measure.LENGTH}
    assert {trigger.activation for trigger in spec.streams} == {0}
    assert spec.least == 0


async def test_no_work_no_workers(site: Site) -> None:
    assert await site.trio.deployed.values() == [0, 0]
    assert await site.trio.deployed.replicas(3) == 0


@pytest.mark.parametrize("priority", Priority)
async def test_one_waiting_study_wakes_a_worker(site: Site, priority: Priority) -> None:
    await fill(site, 1, priority)
    with_work, _, by_pending = await site.trio.replicas(0)
    assert with_work
    assert not by_pending  # nobody took it, so nothing is pending: nobody ever will


async def test_a_backlog_calls_as_many_as_the_target_says(site: Site) -> None:
    await fill(site, 40)
    spec = site.trio.deployed.spec
    routine = next(one for one in spec.streams if one.stream == STREAMS[Priority.ROUTINE])
    autoscaler, replicas = KedaAutoscaler(spec), 1
    for at_s in range(0, 3600, 15):
        replicas = autoscaler.sync(at_s, replicas, await site.trio.deployed.values())
    assert replicas == min(spec.most, -(-40 // routine.target))


async def test_a_worker_that_died_with_all_work_in_hand(site: Site) -> None:
    await fill(site, 3)
    await take_and_die(site, 3)
    assert await site.trio.by_lag.values() == [0, 0]
    assert await site.trio.replicas(1) == (True, False, True)
    assert (await site.trio.replicas(0))[0]


async def test_work_in_flight_keeps_its_worker(site: Site) -> None:
    await fill(site, 1)
    async with site.queue("worker") as worker:
        entry = await worker.take(0)
        assert entry is not None
        assert await site.trio.replicas(1) == (True, False, True)
        await worker.ack(entry)
        assert await site.trio.replicas(1) == (False, False, False)


async def test_a_restarted_server_still_says_it(site: Site) -> None:
    await fill(site, 4)
    await take_and_die(site, 2)
    before = await site.trio.deployed.values()
    await site.stop()
    await site.start()
    assert await site.trio.deployed.values() == before
    assert (await site.trio.replicas(0))[0]
    assert (await site.trio.replicas(1))[0]


async def test_a_server_that_is_away_sends_nobody_home(site: Site) -> None:
    await fill(site, 2)
    await site.stop()
    assert await site.trio.deployed.values() == [None, None]
    assert await site.trio.deployed.replicas(2) > 0
    await site.start()


@pytest.fixture
async def ledger(tmp_path: Path, clock: Clock) -> AsyncIterator[Ledger]:
    url = f"sqlite+aiosqlite:///{tmp_path}/ledger.sqlite"
    async with Ledger(url, AUDIT_KEY, clock=clock) as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_a_lost_queue_is_refilled_and_seen(site: Site, ledger: Ledger, clock: Clock) -> None:
    rules = ReconcilerSettings()
    async with site.queue("gateway") as queue:
        for _ in range(3):
            job, _ = await ledger.submit(new_job())
            await queue.put(job.id, job.priority)
            await ledger.mark_queued(job.id)
        await site.client.flushall()
        # It looks empty until it is refilled, which is long before anybody is sent home.
        assert await site.trio.deployed.values() == [0, 0]
        assert site.trio.deployed.spec.cooldown_s > 4 * (rules.interval_s + rules.waiting_s)
        clock.move(rules.waiting_s + 1)
        report = await Reconciler(ledger, queue, open_store("memory://"), rules).once()
        assert len(report.requeued) == 3
    # No worker has read since, so there is no group to ask for its lag.
    assert await site.trio.replicas(0) == (True, False, False)


async def test_a_trimmed_stream_makes_lag_unknown_and_length_right(site: Site) -> None:
    await fill(site, 6)
    await take_and_die(site, 1)
    entries: Any = await site.client.xrange(STREAMS[Priority.ROUTINE])
    await site.client.xdel(STREAMS[Priority.ROUTINE], entries[3][0])
    lags = dict(
        zip(
            [one.stream for one in site.trio.by_lag.spec.streams],
            await site.trio.by_lag.values(),
            strict=True,
        )
    )
    assert lags[STREAMS[Priority.ROUTINE]] == UNKNOWN_LAG
    assert await site.trio.replicas(1) == (True, False, True)
    await site.client.xtrim(STREAMS[Priority.ROUTINE], maxlen=2, approximate=False)
    assert (await site.trio.replicas(0))[0]


async def test_at_every_moment_of_a_working_day(site: Site) -> None:
    """Workers come and go as KEDA says while studies are put, taken, done and abandoned."""
    autoscaler, replicas = KedaAutoscaler(site.trio.deployed.spec), 0
    async with site.queue("gateway") as gateway, site.queue("worker") as worker:
        for step in range(60):
            if step % 3 == 0:
                await gateway.put(f"job-{step}", Priority.STAT if step % 6 else Priority.ROUTINE)
            if step % 5 == 4 and (entry := await worker.take(0)) is not None and step % 2:
                await worker.ack(entry)
            values = await site.trio.deployed.values()
            replicas = autoscaler.poll(400.0 * step, replicas, values)
            replicas = autoscaler.sync(400.0 * step, replicas, values)
            work = sum((await gateway.size()).values())
            assert replicas > 0 or work == 0
            await asyncio.sleep(0)
