"""A study that crashes, hangs or eats memory in its own process leaves the worker unharmed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from client.errors import RefusalCode, Rejected
from client.worker.blocks import BlockPool
from client.worker.cputime import CpuMeter, CpuUse
from client.worker.isolation import Assistants, Isolation, Runner
from tests.integration import isolated_functions as functions

pytestmark = pytest.mark.integration

GIB = 1 << 30


@pytest.fixture
def isolation() -> Isolation:
    return Isolation(timeout_s=20.0, memory_bytes=4 * GIB)


@pytest.fixture
def assistants() -> Iterator[Assistants]:
    found = Assistants(timeout_s=20.0, memory_bytes=4 * GIB)
    yield found
    found.close()


@pytest.fixture(params=["isolation", "assistants"])
def runner(request: pytest.FixtureRequest) -> Runner:
    """Both keep the same promises, but for who the child is."""
    found: Runner = request.getfixturevalue(request.param)
    return found


async def test_large_arrays_come_back_unchanged(runner: Runner) -> None:
    array = np.arange(4_000_000, dtype=np.int16).reshape(4, 1000, 1000)
    assert np.array_equal(await runner.run((), functions.double, array), array * 2)


async def test_our_own_errors_pass_through(runner: Runner) -> None:
    with pytest.raises(Rejected) as caught:
        await runner.run((), functions.reject)
    assert caught.value.code is RefusalCode.COLOUR


async def test_a_foreign_error_shows_its_place_but_not_its_text(runner: Runner) -> None:
    with pytest.raises(Rejected) as caught:
        await runner.run((), functions.raise_with_patient_name)
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
            asyncio.run(Isolation(20.0, {4 * GIB}).run((), babble, "Doe^Jane"))
        except Rejected as error:
            print(error.code)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.stdout.decode().strip() == "DECODER_CRASHED"
    assert done.stderr == b""


async def test_a_crash_is_a_coded_refusal_and_others_go_on(runner: Runner) -> None:
    outcomes: list[object] = await asyncio.gather(
        runner.run((), functions.die_by, signal.SIGSEGV),
        runner.run((), functions.double, np.ones(3)),
        return_exceptions=True,
    )
    crash, fine = outcomes
    assert isinstance(crash, Rejected)
    assert crash.code is RefusalCode.DECODER_CRASHED
    assert np.array_equal(np.asarray(fine), np.full(3, 2.0))


async def test_memory_is_limited(runner: Runner) -> None:
    with pytest.raises(Rejected) as caught:
        await runner.run((), functions.allocate, 8 * GIB)
    assert caught.value.code is RefusalCode.DECODER_CRASHED


async def test_a_hang_is_stopped_in_time() -> None:
    began = time.monotonic()
    with pytest.raises(Rejected) as caught:
        await Isolation(timeout_s=1.0, memory_bytes=4 * GIB).run((), time.sleep, 60)
    assert caught.value.code is RefusalCode.TIMED_OUT
    assert time.monotonic() - began < 10


async def test_cancelling_kills_the_child(runner: Runner) -> None:
    task = asyncio.create_task(runner.run((), time.sleep, 60))
    await asyncio.sleep(1.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    children = psutil.Process(os.getpid()).children(recursive=True)
    assert not [c for c in children if c.status() == psutil.STATUS_RUNNING]


async def test_arrays_in_blocks_travel_by_their_place(runner: Runner) -> None:
    pool = BlockPool(keep_bytes=GIB)
    with pool.block(8_000_000) as given, pool.block(8_000_000) as room:
        given.used = room.used = 8_000_000
        array = given.bytes[:8_000_000].view(np.int16)
        array[:] = np.arange(4_000_000) % 1000
        answer = await runner.run(
            (given, room), functions.double_in_place, array, room.bytes[:8_000_000]
        )
        assert np.shares_memory(answer, room.bytes)
        np.testing.assert_array_equal(answer, array * 2)


async def test_a_block_is_all_zeros_for_the_next_study(runner: Runner) -> None:
    """Also when the child has written anywhere and failed."""
    pool = BlockPool(keep_bytes=GIB)
    for _ in range(2):
        with pool.block(1 << 20) as block:
            assert not block.bytes.any()
            with pytest.raises(Rejected):
                await runner.run((block,), functions.fill, block.bytes, 7)
            assert block.bytes.all()
    with pool.block(1 << 20) as block:
        assert not block.bytes.any()
        block.bytes[:1000] = 1
        block.used = 1000
    with pool.block(1 << 20) as block:
        assert not block.bytes.any()


async def test_a_child_cannot_shorten_a_block(runner: Runner) -> None:
    with BlockPool(keep_bytes=GIB).block(1 << 20) as block:
        await runner.run((block,), functions.shrink, block.bytes)
        block.bytes[:] = 1  # would end this process by SIGBUS


async def test_a_child_that_was_taken_over_runs_nothing_in_the_worker(
    runner: Runner, tmp_path: Path
) -> None:
    with pytest.raises(Rejected) as caught:
        await runner.run((), functions.take_over, str(tmp_path / "taken"))
    assert caught.value.code is RefusalCode.DECODER_CRASHED
    assert not (tmp_path / "taken").exists()


async def test_what_a_child_takes_is_charged_to_the_attempt(runner: Runner) -> None:
    meter, use = CpuMeter(lambda: 0.0), CpuUse()
    with meter.attempt(use):
        await runner.run((), functions.burn, 0.6)
        first = use.seconds
        await runner.run((), functions.double, np.ones(3))
    assert 0.6 <= first < 1.2
    assert use.seconds - first < 0.3  # of the last call alone


async def test_a_child_that_says_nothing_is_charged_for_its_time() -> None:
    meter, use = CpuMeter(lambda: 0.0), CpuUse()
    with meter.attempt(use), pytest.raises(Rejected):
        await Isolation(timeout_s=1.0, memory_bytes=4 * GIB).run((), time.sleep, 60)
    assert 1.0 <= use.seconds < 5.0


async def test_a_child_cannot_charge_more_than_there_are_cores(isolation: Isolation) -> None:
    meter, use = CpuMeter(lambda: 0.0), CpuUse()
    began = time.monotonic()
    with meter.attempt(use):
        await isolation.run((), functions.boast, 1e9)
    assert 0 < use.seconds <= (time.monotonic() - began) * (os.cpu_count() or 1)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), "many"])
async def test_a_child_that_says_nonsense_about_its_time_has_no_answer(
    isolation: Isolation, seconds: float
) -> None:
    with pytest.raises(Rejected) as caught:
        await isolation.run((), functions.boast, seconds)
    assert caught.value.code is RefusalCode.DECODER_CRASHED


async def test_a_reader_serves_once_and_an_assistant_stays(
    isolation: Isolation, assistants: Assistants
) -> None:
    once = {await isolation.run((), functions.process_id) for _ in range(3)}
    assert len(once) == 3
    staying = [await assistants.run((), functions.process_id) for _ in range(3)]
    assert len(set(staying)) == 1
    with pytest.raises(Rejected):
        await assistants.run((), functions.die_by, signal.SIGKILL)
    assert await assistants.run((), functions.process_id) not in staying
    both = await asyncio.gather(*(assistants.run((), functions.process_id) for _ in range(2)))
    assert len(set(both)) == 2
