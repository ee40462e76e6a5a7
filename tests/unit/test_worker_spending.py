"""What an attempt takes: shares of time that add up, and rows that divide nothing away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from client.triton.inference import ModelIdentity
from client.triton.occupancy import EngineUse, Occupancy
from client.worker.cputime import CpuMeter, CpuUse, charge_cpu
from client.worker.spending import Spending

pytestmark = pytest.mark.unit


class Seconds:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def identity(name: str, version: str = "1") -> ModelIdentity:
    return ModelIdentity(name, version, "triton 2", "TensorRT fp16", "gpu", "", "")


def test_a_servers_time_is_shared_by_the_slices_that_are_there() -> None:
    clock = Seconds()
    occupancy, one, other = Occupancy(clock), EngineUse(), EngineUse()
    clock.now += 5  # nobody's
    with occupancy.of(3, one):
        clock.now += 1
        with occupancy.of(1, other):
            clock.now += 4
        clock.now += 2
    clock.now += 7  # nobody's
    assert (one.seconds, other.seconds) == (1 + 3 + 2, 1)


def test_what_fails_has_kept_the_server_busy_too() -> None:
    clock, use = Seconds(), EngineUse()
    occupancy = Occupancy(clock)

    def ask() -> None:
        with occupancy.of(2, use):
            clock.now += 3
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        ask()
    with occupancy.of(1, use):
        clock.now += 1
    assert (use.seconds, use.slices) == (4, 0)


async def test_cpu_time_goes_in_equal_parts_to_the_attempts_in_work() -> None:
    clock = Seconds()
    meter, one, other = CpuMeter(clock), CpuUse(), CpuUse()
    clock.now += 5  # nobody's
    with meter.attempt(one):
        clock.now += 1
        with meter.attempt(other):
            clock.now += 4
        clock.now += 2
    assert (one.seconds, other.seconds) == (5, 2)


async def test_a_childs_time_goes_to_the_attempt_of_its_task() -> None:
    meter, uses = CpuMeter(lambda: 0.0), [CpuUse(), CpuUse()]

    async def study(use: CpuUse, seconds: float) -> None:
        with meter.attempt(use):
            await asyncio.sleep(0)
            charge_cpu(seconds)
            await asyncio.gather(asyncio.to_thread(charge_cpu, seconds))

    await asyncio.gather(study(uses[0], 1.0), study(uses[1], 10.0))
    charge_cpu(99.0)  # of no attempt
    assert [use.seconds for use in uses] == [2.0, 20.0]


async def test_bytes_count_up_to_the_failure() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"12345"
        yield b"678"
        raise OSError("gone")

    spending = Spending()
    with pytest.raises(OSError, match="gone"):
        async for _ in spending.fetched(chunks()):
            pass
    (row,) = spending.costs()
    assert (row.model, row.fetched_bytes, row.engine_us, row.slices) == ("", 8, 0, 0)


def test_a_row_for_each_model_and_nothing_lost_between_them() -> None:
    spending = Spending()
    spending.cpu.seconds, spending.fetched_bytes, spending.stored_bytes = 1.000001, 1001, 7
    for name, slices, seconds in (("a", 1, 0.5), ("b", 2, 1.5), ("b", 4, 1.0)):
        use = spending.engine(identity(name, str(slices)))
        use.slices += slices
        use.seconds += seconds
    rows = spending.costs()
    assert [(row.model, row.version, row.slices, row.engine_us) for row in rows] == [
        ("a", "1", 1, 500_000),
        ("b", "4", 6, 2_500_000),
    ]
    assert sum(row.cpu_us for row in rows) == 1_000_001
    assert sum(row.fetched_bytes for row in rows) == 1001
    assert sum(row.stored_bytes for row in rows) == 7
    assert {row.device for row in rows} == {"gpu"}


def test_a_model_that_answered_nothing_has_a_row_as_well() -> None:
    spending = Spending()
    spending.fetched_bytes = 5
    spending.engine(identity("a"))
    spending.engine(identity("b"))
    assert [(row.slices, row.fetched_bytes) for row in spending.costs()] == [(0, 5), (0, 0)]
