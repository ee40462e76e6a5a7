"""The queue on Redis Streams, with commands that Redis and Valkey 7.2 know.

    put: XADD ──▶ jobs:stat │ jobs:routine ──XREADGROUP──▶ take ──▶ ack: MULTI { XACK, XDEL }
                                   └──XAUTOCLAIM (worker gone)──▶ reclaim
    tell_end: PUBLISH ──▶ jobs:ended ──SUBSCRIBE──▶ ends

Acknowledged entries are deleted, so a stream's length is what waits plus what is being worked on:
a number that survives restarts and that autoscalers can trust.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import redis.asyncio
from redis import exceptions as redis_errors
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from client.errors import ConfigurationError, Transient
from client.jobqueue.base import PRIORITY_ORDER, QueueEntry
from client.jobqueue.keys import (
    COMMAND_TIMEOUT_S,
    ENDS,
    GROUP,
    JOB_FIELD,
    MAX_BLOCK_S,
    SCAN_PAGE,
    STREAMS,
)
from client.jobs import Priority

__all__ = ("StreamsQueue",)

T = TypeVar("T")
_DENIED = (
    redis_errors.AuthenticationError,
    redis_errors.AuthorizationError,
    redis_errors.NoPermissionError,
)
_PRIORITY_OF = {stream.encode(): priority for priority, stream in STREAMS.items()}


class StreamsQueue:
    """One process's view of the queue; see ``JobQueue`` for the promises.

    Args:
        url: ``unix:///socket``, ``redis://…`` or ``rediss://…`` (TLS).
        consumer: Name of this process in the consumer group.
    """

    def __init__(self, url: str, consumer: str) -> None:
        self._url = url
        self._consumer = consumer
        self._redis: Any = None
        self._held: dict[Priority, deque[QueueEntry]] = {p: deque() for p in PRIORITY_ORDER}

    async def __aenter__(self) -> Self:
        """Make the client; the first command connects.

        Raises:
            ConfigurationError: The URL is not one of Redis.
        """
        try:
            self._redis = redis.asyncio.Redis.from_url(
                self._url,
                protocol=2,
                socket_timeout=COMMAND_TIMEOUT_S,
                socket_connect_timeout=COMMAND_TIMEOUT_S,
                retry=Retry(NoBackoff(), 1),
            )
        except ValueError as error:
            raise ConfigurationError(
                "Expected a queue URL that starts with redis://, rediss:// or unix://."
            ) from error
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put back what was read ahead, leave the group if nothing is in hand, disconnect."""
        with contextlib.suppress(Transient, ConfigurationError):
            for held in self._held.values():
                while held:
                    entry = held.popleft()
                    await self.put(entry.job_id, entry.priority)
                    await self.ack(entry)
            await self._leave()
        await self._redis.aclose()

    async def put(self, job_id: str, priority: Priority) -> None:
        """Append a job."""
        with _translated():
            await self._redis.xadd(STREAMS[priority], {JOB_FIELD: job_id})

    async def take(
        self, wait_s: float, priorities: Sequence[Priority] = PRIORITY_ORDER
    ) -> QueueEntry | None:
        """Return the next entry, None when none came in ``wait_s`` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            for priority in priorities:
                if not self._held[priority]:
                    await self._read((priority,), None)
                if self._held[priority]:
                    return self._held[priority].popleft()
            left_s = min(deadline - loop.time(), MAX_BLOCK_S)
            if left_s <= 0:
                return None
            await self._read(priorities, max(1, int(left_s * 1000)))

    async def ack(self, entry: QueueEntry) -> None:
        """Remove an entry that is done with."""
        stream = STREAMS[entry.priority]
        with _translated():
            async with self._redis.pipeline(transaction=True) as commands:
                commands.xack(stream, GROUP, entry.receipt)
                commands.xdel(stream, entry.receipt)
                await commands.execute()

    async def touch(self, entry: QueueEntry) -> None:
        """Say that the entry is still being worked on."""
        # XCLAIM with JUSTID resets the idle time and leaves the delivery count alone.
        await self._in_group(
            lambda: self._redis.xclaim(
                STREAMS[entry.priority], GROUP, self._consumer, 0, [entry.receipt], justid=True
            )
        )

    async def reclaim(self, idle_s: float) -> QueueEntry | None:
        """Take over one entry that nobody touched for ``idle_s``, STAT first."""
        for priority in PRIORITY_ORDER:
            start = "0-0"
            while True:
                start, entries, *_ = await self._in_group(
                    self._autoclaim(priority, int(idle_s * 1000), start)
                )
                if entries:
                    return _entry(priority, *entries[0])
                if start == b"0-0":
                    break
        return None

    def _autoclaim(
        self, priority: Priority, idle_ms: int, start: str
    ) -> Callable[[], Awaitable[Any]]:
        return lambda: self._redis.xautoclaim(
            STREAMS[priority], GROUP, self._consumer, idle_ms, start, count=1
        )

    async def job_ids(self) -> frozenset[str]:
        """Return the ids of all entries, waiting or taken."""
        ids: set[str] = set()
        for stream in STREAMS.values():
            start = "-"
            while True:
                with _translated():
                    page = await self._redis.xrange(stream, start, "+", count=SCAN_PAGE)
                ids.update(fields[JOB_FIELD.encode()].decode() for _, fields in page)
                if len(page) < SCAN_PAGE:
                    break
                start = "(" + page[-1][0].decode()
        return frozenset(ids)

    async def size(self) -> Mapping[Priority, int]:
        """Return the number of entries, waiting or taken, of each priority."""
        with _translated():
            return {p: await self._redis.xlen(stream) for p, stream in STREAMS.items()}

    async def tell_end(self, job_id: str) -> None:
        """Say that a job has ended, to whoever listens."""
        with _translated():
            await self._redis.publish(ENDS, job_id)

    async def ends(self) -> AsyncGenerator[str]:
        """Yield the ids of jobs whose end is told from now on."""
        async with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
            with _translated():
                await channel.subscribe(ENDS)
            asked_s = 0.0
            while True:
                with _translated():
                    told = await channel.get_message(timeout=MAX_BLOCK_S)
                    if told is None and asked_s >= COMMAND_TIMEOUT_S:
                        raise redis_errors.TimeoutError
                    if told is None:  # silence: nothing ended, or the connection is half open
                        await channel.ping()
                        asked_s += MAX_BLOCK_S
                        continue
                asked_s = 0.0
                if told["type"] == "message":
                    yield told["data"].decode()

    async def _read(self, priorities: Sequence[Priority], block_ms: int | None) -> None:
        wanted = {STREAMS[priority]: ">" for priority in priorities}
        answer = await self._in_group(
            lambda: self._redis.xreadgroup(GROUP, self._consumer, wanted, count=1, block=block_ms)
        )
        for stream, entries in answer or ():
            priority = _PRIORITY_OF[stream]
            self._held[priority].extend(_entry(priority, *entry) for entry in entries)

    async def _in_group(self, command: Callable[[], Awaitable[T]]) -> T:
        """Run a command of the consumer group; make the group when it is not there (yet)."""
        with _translated():
            try:
                return await command()
            except redis_errors.ResponseError as error:
                if _code(error) != "NOGROUP":
                    raise
                await self._make_groups()
                return await command()

    async def _make_groups(self) -> None:
        for stream in STREAMS.values():
            try:
                await self._redis.xgroup_create(stream, GROUP, id="0", mkstream=True)
            except redis_errors.ResponseError as error:
                if _code(error) != "BUSYGROUP":
                    raise

    async def _leave(self) -> None:
        for stream in STREAMS.values():
            with contextlib.suppress(redis_errors.ResponseError), _translated():
                mine = await self._redis.xpending_range(
                    stream, GROUP, "-", "+", 1, consumername=self._consumer
                )
                if not mine:
                    await self._redis.xgroup_delconsumer(stream, GROUP, self._consumer)


def _entry(priority: Priority, receipt: bytes, fields: dict[bytes, bytes]) -> QueueEntry:
    return QueueEntry(fields[JOB_FIELD.encode()].decode(), priority, receipt.decode())


def _code(error: redis_errors.ResponseError) -> str:
    """Return the error code: by Redis' protocol, the first word of an error."""
    return str(error).partition(" ")[0]


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (redis_errors.RedisError, OSError) as error:
        # The client wraps a refused greeting in a ConnectionError.
        if isinstance(error, _DENIED) or isinstance(error.__cause__, _DENIED):
            raise ConfigurationError("The queue refuses our name or password.") from error
        raise Transient(f"The queue is away ({type(error).__name__}); try again.") from error
