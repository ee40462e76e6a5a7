"""What the queue on Redis Streams asks of its server, seen from the server's side."""

from __future__ import annotations

import asyncio
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import psutil
import pytest
import redis

from client.errors import ConfigurationError, Transient
from client.jobqueue import embedded
from client.jobqueue.base import PRIORITY_ORDER
from client.jobqueue.embedded import embedded_queue, embedded_queue_url, valkey_command
from client.jobqueue.keys import GROUP, STREAMS
from client.jobqueue.streams import StreamsQueue

pytestmark = pytest.mark.contract

STAT, ROUTINE = PRIORITY_ORDER


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    async with embedded_queue(tmp_path / "q") as url:
        yield url


@pytest.fixture
def admin(url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url, decode_responses=True) as admin:
        yield admin


@contextmanager
def calls_of(admin: redis.Redis, command: str) -> Iterator[list[int]]:
    """Count how often the server was asked for a command."""

    def count() -> int:
        return int(admin.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])

    before, counted = count(), [0]
    yield counted
    counted[0] = count() - before


async def test_an_entry_is_acknowledged_and_removed_in_one_transaction(
    url: str, admin: redis.Redis
) -> None:
    async with StreamsQueue(url, "one") as queue:
        await queue.put("a", STAT)
        entry = await queue.take(0)
        assert entry is not None
        with calls_of(admin, "exec") as transactions:
            await queue.ack(entry)
    assert transactions == [1]


async def test_touching_is_not_delivering_again(url: str, admin: redis.Redis) -> None:
    async with StreamsQueue(url, "one") as queue:
        await queue.put("a", STAT)
        entry = await queue.take(0)
        assert entry is not None
        for _ in range(3):
            await queue.touch(entry)
        (pending,) = admin.xpending_range(STREAMS[STAT], GROUP, "-", "+", 9)
        assert pending["times_delivered"] == 1
        assert pending["consumer"] == "one"


async def test_one_entry_is_taken_over_at_a_time(url: str) -> None:
    async with (
        StreamsQueue(url, "one") as one,
        StreamsQueue(url, "two") as two,
        StreamsQueue(url, "three") as three,
    ):
        for job in ("a", "b", "c"):
            await one.put(job, ROUTINE)
            await one.take(0)
        await asyncio.sleep(0.2)
        taken = [await queue.reclaim(0.15) for queue in (two, three, two)]
        assert [entry.job_id for entry in taken if entry] == ["a", "b", "c"]
        assert await three.reclaim(0.15) is None


async def test_a_worker_takes_one_entry_and_leaves_the_next_to_others(url: str) -> None:
    async with StreamsQueue(url, "one") as one, StreamsQueue(url, "two") as two:
        for job in ("a", "b", "c"):
            await one.put(job, STAT)
        taken = [await queue.take(0) for queue in (one, two, one)]
        assert [entry.job_id for entry in taken if entry] == ["a", "b", "c"]


async def test_an_idle_worker_leaves_the_group_though_another_is_busy(
    url: str, admin: redis.Redis
) -> None:
    async with StreamsQueue(url, "busy") as busy:
        async with StreamsQueue(url, "idle") as idle:
            for job in ("a", "b"):
                await busy.put(job, ROUTINE)
            entry = await idle.take(0)
            assert entry is not None
            assert await busy.take(0) is not None
            await idle.ack(entry)
        (consumer,) = admin.xinfo_consumers(STREAMS[ROUTINE], GROUP)
        assert consumer["name"] == "busy"


async def test_all_ids_are_read_page_by_page(
    url: str, admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.jobqueue.streams.SCAN_PAGE", 3)
    async with StreamsQueue(url, "one") as queue:
        for number in range(10):
            await queue.put(str(number), ROUTINE)
        with calls_of(admin, "xrange") as pages:
            assert await queue.job_ids() == {str(number) for number in range(10)}
    assert pages == [1 + 4]  # none of STAT; 3, 3, 3 and 1 of ROUTINE


async def test_a_worker_with_work_in_hand_stays_in_the_group(url: str, admin: redis.Redis) -> None:
    async with StreamsQueue(url, "busy") as queue:
        await queue.put("a", ROUTINE)
        await queue.take(0)
    (consumer,) = admin.xinfo_consumers(STREAMS[ROUTINE], GROUP)
    assert (consumer["name"], consumer["pending"]) == ("busy", 1)
    assert admin.xinfo_consumers(STREAMS[STAT], GROUP) == []


async def test_a_wait_is_no_longer_than_asked(url: str, admin: redis.Redis) -> None:
    loop = asyncio.get_running_loop()
    async with StreamsQueue(url, "one") as queue:
        await queue.take(0)
        started = loop.time()
        with calls_of(admin, "xreadgroup") as reads:
            assert await queue.take(0.3) is None
        assert 0.29 < loop.time() - started < 5
        assert reads[0] < 12, "it waits at the server and does not ask again and again"


async def test_a_quiet_channel_is_listened_to_and_a_silent_server_is_not(
    url: str, admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.jobqueue.streams.MAX_BLOCK_S", 0.1)
    monkeypatch.setattr("client.jobqueue.streams.COMMAND_TIMEOUT_S", 0.3)
    async with StreamsQueue(url, "one") as queue, aclosing(queue.ends()) as ends:
        hearing = asyncio.create_task(anext(ends))
        await asyncio.sleep(1.0)
        assert not hearing.done()
        await queue.tell_end("a")
        assert await hearing == "a"
        server = psutil.Process(int(admin.info("server")["process_id"]))
        server.suspend()
        try:
            with pytest.raises(Transient):
                async with asyncio.timeout(10):
                    await anext(ends)
        finally:
            server.resume()


async def test_a_group_that_is_there_already_is_used(url: str, admin: redis.Redis) -> None:
    admin.xgroup_create(STREAMS[STAT], GROUP, id="0", mkstream=True)
    async with StreamsQueue(url, "one") as queue:
        await queue.put("a", ROUTINE)
        entry = await queue.take(0)
        assert entry is not None
        assert entry.job_id == "a"


async def test_another_type_under_our_name_is_told_and_not_waited_for(
    url: str, admin: redis.Redis
) -> None:
    admin.set(STREAMS[ROUTINE], "no stream")
    async with StreamsQueue(url, "one") as queue:
        with pytest.raises(Transient, match="ResponseError"):
            await queue.take(0)
        admin.delete(STREAMS[ROUTINE])
        assert await queue.take(0) is None


async def test_the_server_is_set_to_lose_nothing(url: str, admin: redis.Redis) -> None:
    wanted = {
        "port": "0",
        "unixsocketperm": "700",
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "logfile": "",
        "dir": str(Path(url.removeprefix("unix://")).parent),
    }
    assert {name: admin.config_get(name)[name] for name in wanted} == wanted
    socket = Path(url.removeprefix("unix://"))
    assert stat.S_IMODE(socket.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("import time; time.sleep(60)", "did not answer in 0.5 s"),
        ("raise SystemExit(7)", "ended at once with code 7"),
    ],
)
async def test_a_server_that_does_not_start_is_told_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: str
) -> None:
    monkeypatch.setattr(embedded, "_START_TIMEOUT_S", 0.5 if "sleep" in script else 30.0)
    monkeypatch.setattr(embedded, "valkey_command", lambda _folder: (sys.executable, "-c", script))
    with pytest.raises(ConfigurationError, match=told):
        async with asyncio.timeout(60), embedded_queue(tmp_path):
            pass


def test_valkey_is_preferred_to_redis_and_a_socket_may_be_as_long_as_it_may(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("redis-server", "valkey-server"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        assert embedded.find_queue_server() == tmp_path / name
    path = embedded_queue_url(Path("/x")).removeprefix("unix:///x")
    room = embedded._MAX_SOCKET_PATH_BYTES - len(path) - 1
    assert embedded_queue_url(Path("/" + "x" * room)).endswith("x" + path)
    with pytest.raises(ConfigurationError, match="HOUNSFIELD_HOME"):
        embedded_queue_url(Path("/" + "x" * (room + 1)))


def test_a_chosen_program_is_run_with_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "q"
    command = valkey_command(folder, Path("/usr/bin/some-server"))
    assert command[0] == "/usr/bin/some-server"
    socket = command[command.index("--unixsocket") + 1]
    assert f"unix://{socket}" == embedded_queue_url(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
