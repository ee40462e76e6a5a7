"""A study that crashes, hangs or eats memory in its own process leaves the worker unharmed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from client.errors import RefusalCode, Rejected
from client.worker.isolation import Isolation
from tests.integration import isolated_functions as functions

pytestmark = pytest.mark.integration

GIB = 1 << 30


@pytest.fixture
def isolation() -> Isolation:
    return Isolation(timeout_s=20.0, memory_bytes=4 * GIB)


async def test_large_arrays_come_back_unchanged(isolation: Isolation) -> None:
    array = np.arange(4_000_000, dtype=np.int16).reshape(4, 1000, 1000)
    assert np.array_equal(await isolation.run(functions.double, array), array * 2)


async def test_our_own_errors_pass_through(isolation: Isolation) -> None:
    with pytest.raises(Rejected) as caught:
        await isolation.run(functions.reject)
    assert caught.value.code is RefusalCode.COLOUR


async def test_a_foreign_error_shows_its_place_but_not_its_text(isolation: Isolation) -> None:
    with pytest.raises(Rejected) as caught:
        await isolation.run(functions.raise_with_patient_name)
    assert caught.value.code is RefusalCode.DECODER_CRASHED
    assert "ValueError at isolated_functions.py" in caught.value.reason
    assert "Doe" not in str(caught.value)


def test_nothing_a_decoder_says_reaches_the_workers_log() -> None:
    program = f"""if True:
        import asyncio
        from client.errors import Rejected
        from client.worker.isolation import Isolation
        from tests.integration.isolated_functions import babble
        try:
            asyncio.run(Isolation(20.0, {4 * GIB}).run(babble, "Doe^Jane"))
        except Rejected as error:
            print(error.code)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.stdout.decode().strip() == "DECODER_CRASHED"
    assert done.stderr == b""


async def test_a_crash_is_a_coded_refusal_and_others_go_on(isolation: Isolation) -> None:
    outcomes: list[object] = await asyncio.gather(
        isolation.run(functions.die_by, signal.SIGSEGV),
        isolation.run(functions.double, np.ones(3)),
        return_exceptions=True,
    )
    crash, fine = outcomes
    assert isinstance(crash, Rejected)
    assert crash.code is RefusalCode.DECODER_CRASHED
    assert np.array_equal(np.asarray(fine), np.full(3, 2.0))


async def test_memory_is_limited(isolation: Isolation) -> None:
    with pytest.raises(Rejected) as caught:
        await isolation.run(functions.allocate, 8 * GIB)
    assert caught.value.code is RefusalCode.DECODER_CRASHED


async def test_a_hang_is_stopped_in_time() -> None:
    began = time.monotonic()
    with pytest.raises(Rejected) as caught:
        await Isolation(timeout_s=1.0, memory_bytes=4 * GIB).run(time.sleep, 60)
    assert caught.value.code is RefusalCode.TIMED_OUT
    assert time.monotonic() - began < 10


async def test_cancelling_kills_the_child(isolation: Isolation) -> None:
    task = asyncio.create_task(isolation.run(time.sleep, 60))
    await asyncio.sleep(1.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    children = psutil.Process(os.getpid()).children(recursive=True)
    assert not [c for c in children if c.status() == psutil.STATUS_RUNNING]
