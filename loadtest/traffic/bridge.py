"""Lets greenlets wait for asyncio: our real client runs on a loop in a thread of the system.

greenlet ──coroutine──▶ loop in its own thread ──gevent's async watcher──▶ greenlet goes on

gRPC's asyncio API and gevent's patched sockets and threads do not go together. So nothing is
patched here, and the only thing that crosses between the two worlds is libev's wake-up call, which
is made for that (gevent, ``ILoop.async_``: ``send`` may be called from any thread).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

import gevent
from gevent import monkey
from gevent.event import Event

from client.errors import ConfigurationError

__all__ = ("Bridge",)

T = TypeVar("T")


class Bridge:
    """A loop in a thread; a context manager."""

    def __enter__(self) -> Self:
        """Start the thread.

        Raises:
            ConfigurationError: gevent has patched Python's threads.
        """
        if monkey.is_module_patched("threading"):
            raise ConfigurationError(
                "Threads are patched by gevent: start locust with LOCUST_SKIP_MONKEY_PATCH=1."
            )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="asyncio", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine returns; other greenlets run meanwhile.

        A greenlet that is killed meanwhile cancels the coroutine.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        done, waker = Event(), gevent.get_hub().loop.async_()
        # Before the callback: a wake-up call to a watcher that has not started is lost.
        waker.start(done.set)
        future.add_done_callback(lambda _: waker.send())
        try:
            done.wait()
            return future.result()
        finally:
            future.cancel()
            waker.stop()
            waker.close()
