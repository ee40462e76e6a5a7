"""Streams of the event loop, read in threads: in order, with their errors, and none left over."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator

import pytest

from client.crypto.bridge import PulledReader, in_thread, read_in_thread

pytestmark = pytest.mark.unit


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        await asyncio.sleep(0)
        yield chunk


async def endless() -> AsyncIterator[bytes]:
    yield b"first"
    await asyncio.Event().wait()


async def test_a_file_gives_every_byte_in_order_whatever_is_asked_for() -> None:
    chunks = (b"abc", b"", b"defgh", b"", b"i")

    def read(file: io.RawIOBase) -> list[bytes | None]:
        assert file.readable()
        return [
            file.read(2),
            file.read(2),
            file.read(10),
            file.read(10),
            file.read(1),
            file.read(1),
        ]

    # A raw read gives what is there and never waits for more (io.RawIOBase.read).
    assert await read_in_thread(stream(*chunks), read) == [b"ab", b"c", b"defgh", b"i", b"", b""]
    assert await read_in_thread(stream(), lambda file: file.read()) == b""
    assert await read_in_thread(stream(*chunks), lambda file: file.read()) == b"abcdefghi"


async def test_the_streams_error_comes_out_and_names_what_the_reader_made_of_it() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"a"
        raise ConnectionError("the store went away")

    def translating(file: io.RawIOBase) -> bytes | None:
        try:
            return file.readall()
        except ConnectionError as error:
            raise ValueError("does not decrypt") from error

    with pytest.raises(ConnectionError, match="went away") as caught:
        await read_in_thread(broken(), translating)
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(ConnectionError) as caught:
        await read_in_thread(broken(), lambda file: file.readall())
    assert caught.value.__cause__ is None


async def test_the_works_own_error_comes_out_as_it_is() -> None:
    def work(_file: io.RawIOBase) -> bytes:
        raise ValueError("ours")

    with pytest.raises(ValueError, match=r"^ours$") as caught:
        await read_in_thread(stream(b"a"), work)
    assert caught.value.__cause__ is None


async def test_a_stopped_reader_wakes_the_thread_that_waits() -> None:
    reader = PulledReader(endless(), asyncio.get_running_loop())
    assert await asyncio.to_thread(reader.read, 5) == b"first"
    reading = asyncio.create_task(asyncio.to_thread(reader.read, 5))
    await asyncio.sleep(0.1)
    assert not reading.done()
    reader.stop()
    done, _ = await asyncio.wait([reading], timeout=5)
    assert done
    assert reading.cancelled() or reading.exception() is not None


async def test_a_stopped_reader_asks_for_nothing_more() -> None:
    asked: list[bytes] = []

    async def counted() -> AsyncIterator[bytes]:
        for chunk in (b"ab", b"cd"):
            asked.append(chunk)
            yield chunk

    reader = PulledReader(counted(), asyncio.get_running_loop())
    reader.stop()
    with pytest.raises(BrokenPipeError, match="Nobody waits"):
        await asyncio.to_thread(reader.read, 1)
    assert asked == []
    other = PulledReader(counted(), asyncio.get_running_loop())
    assert await asyncio.to_thread(other.read, 1) == b"a"
    other.stop()
    assert await asyncio.to_thread(other.read, 9) == b"b", "what came already is given"
    with pytest.raises(BrokenPipeError):
        await asyncio.to_thread(other.read, 1)


async def test_a_blocking_iterator_is_read_to_its_end() -> None:
    def blocking() -> Iterator[bytes]:
        yield b"a"
        yield b""
        yield b"b"

    async with asyncio.timeout(20):
        assert [chunk async for chunk in in_thread(blocking())] == [b"a", b"", b"b"]
        assert [chunk async for chunk in in_thread(iter(()))] == []
