"""Joins blocking streams (Tink) and asynchronous ones (gRPC, object stores) without buffering."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from typing import Final, TypeVar

__all__ = ("PulledReader", "in_thread", "read_in_thread")

T = TypeVar("T")
_END: Final = b""


class PulledReader(io.RawIOBase):
    """A blocking file, for one worker thread, over an asynchronous stream of the event loop.

    Args:
        chunks: Read one at a time, as the thread asks for them.
        loop: The loop that ``chunks`` belongs to.
    """

    def __init__(self, chunks: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._chunks = chunks
        self._loop = loop
        self._rest = memoryview(b"")
        self._waiting: Future[bytes] | None = None
        self._stopped = False
        self.error: BaseException | None = None
        """What the stream raised; a library in between may have turned it into its own error."""

    def readable(self) -> bool:
        """Say yes."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill ``buffer`` with what there is, waiting for the loop when there is nothing."""
        if not self._rest:
            self._rest = memoryview(self._pull())
        taken = min(len(buffer), len(self._rest))
        buffer[:taken] = self._rest[:taken]
        self._rest = self._rest[taken:]
        return taken

    def _pull(self) -> bytes:
        if self._stopped:
            raise BrokenPipeError("Nobody waits for this stream any more.")
        self._waiting = asyncio.run_coroutine_threadsafe(self._next(), self._loop)
        try:
            return self._waiting.result()
        except BaseException as error:
            self.error = error
            raise

    async def _next(self) -> bytes:
        async for chunk in self._chunks:
            if chunk:
                return chunk
        return _END

    def stop(self) -> None:
        """Make the reading thread end soon; called from the event loop."""
        self._stopped = True
        if self._waiting is not None:
            self._waiting.cancel()


async def read_in_thread(chunks: AsyncIterator[bytes], work: Callable[[io.RawIOBase], T]) -> T:
    """Run ``work`` in a thread with a blocking file that reads ``chunks``.

    Returns:
        What ``work`` returns.

    Raises:
        BaseException: What ``chunks`` raised, else what ``work`` raised.
    """
    reader = PulledReader(chunks, asyncio.get_running_loop())
    try:
        return await asyncio.to_thread(work, reader)
    except asyncio.CancelledError:
        reader.stop()
        raise
    except Exception as error:
        if reader.error is not None and reader.error is not error:
            raise reader.error from error
        raise


async def in_thread(chunks: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield what a blocking iterator yields, each step made in a thread."""
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk
