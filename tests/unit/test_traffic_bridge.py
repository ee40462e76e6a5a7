"""Greenlets wait for the asyncio loop side by side, and take their work along when they go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from client.errors import ConfigurationError

gevent = pytest.importorskip("gevent", reason="needs the extra `loadtest`")
from gevent import monkey  # noqa: E402

from loadtest.traffic.bridge import Bridge  # noqa: E402

pytestmark = pytest.mark.unit
GREENLETS = 100


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    with Bridge() as running:
        yield running


def test_a_hundred_greenlets_wait_at_the_same_time(bridge: Bridge) -> None:
    under_way, most = 0, 0

    async def study(number: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.5)
        under_way -= 1
        return number

    began = time.monotonic()
    greenlets = [gevent.spawn(bridge.run, study(number)) for number in range(GREENLETS)]
    gevent.joinall(greenlets, raise_error=True)
    assert [one.value for one in greenlets] == list(range(GREENLETS))
    assert most == GREENLETS
    assert time.monotonic() - began < 0.5 * GREENLETS / 10


def test_other_greenlets_run_while_one_waits(bridge: Bridge) -> None:
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            gevent.sleep(0.02)

    ticking = gevent.spawn(tick)
    bridge.run(asyncio.sleep(0.5))
    ticking.kill()
    assert ticks > 5


def test_an_error_reaches_the_greenlet(bridge: Bridge) -> None:
    async def broken() -> None:
        raise LookupError("this one")

    with pytest.raises(LookupError, match="this one"):
        bridge.run(broken())


def test_a_killed_greenlet_cancels_its_work(bridge: Bridge) -> None:
    cancelled = []

    async def endless() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    greenlet = gevent.spawn(bridge.run, endless())
    gevent.sleep(0.1)
    greenlet.kill()
    bridge.run(asyncio.sleep(0.1))
    assert cancelled == [True]


def test_patched_threads_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monkey, "is_module_patched", lambda name: name == "threading")
    with pytest.raises(ConfigurationError, match="LOCUST_SKIP_MONKEY_PATCH"), Bridge():
        raise AssertionError("started")
