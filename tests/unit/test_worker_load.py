"""Routine studies share places and memory; STAT studies wait for neither."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from client.jobs import Priority
from client.worker.load import Budget, Gate

pytestmark = pytest.mark.unit


async def settled(task: asyncio.Task[None]) -> bool:
    for _ in range(5):
        await asyncio.sleep(0)
    return task.done()


async def hold(entered: AsyncExitStack, context: object) -> None:
    await entered.enter_async_context(context)  # type: ignore[arg-type]


async def test_a_gate_lets_so_many_through_and_stat_always() -> None:
    gate = Gate(2)
    async with AsyncExitStack() as first, AsyncExitStack() as later:
        for _ in range(2):
            await hold(first, gate.place(Priority.ROUTINE))
        waiting = asyncio.create_task(hold(later, gate.place(Priority.ROUTINE)))
        assert not await settled(waiting)
        async with gate.place(Priority.STAT):
            assert not await settled(waiting)
        await first.aclose()
        assert await settled(waiting)


async def test_those_inside_a_gate_share_the_cores_and_stat_has_all() -> None:
    gate = Gate(3, cores=8)
    async with gate.place(Priority.ROUTINE) as alone:
        async with (
            gate.place(Priority.ROUTINE) as second,
            gate.place(Priority.ROUTINE) as third,
            gate.place(Priority.STAT) as urgent,
        ):
            assert (alone, second, third, urgent) == (8, 4, 2, 8)
        async with gate.place(Priority.ROUTINE) as again:
            assert again == 4


async def test_there_is_always_one_core() -> None:
    gate = Gate(2)
    async with gate.place(Priority.ROUTINE) as one, gate.place(Priority.ROUTINE) as other:
        assert (one, other) == (1, 1)


async def test_memory_is_given_in_turn_and_a_giant_goes_alone() -> None:
    budget = Budget(100)
    async with AsyncExitStack() as small, AsyncExitStack() as giant, AsyncExitStack() as last:
        await hold(small, budget.take(60, Priority.ROUTINE))
        waits = asyncio.create_task(hold(giant, budget.take(500, Priority.ROUTINE)))
        assert not await settled(waits)
        behind = asyncio.create_task(hold(last, budget.take(10, Priority.ROUTINE)))
        assert not await settled(behind)
        async with budget.take(90, Priority.STAT):
            assert not await settled(waits)
        await small.aclose()
        assert await settled(waits)
        assert not await settled(behind)
        await giant.aclose()
        assert await settled(behind)


async def test_one_who_gives_up_waiting_holds_nobody_up() -> None:
    budget = Budget(100)
    async with AsyncExitStack() as held, AsyncExitStack() as later:
        await hold(held, budget.take(100, Priority.ROUTINE))
        gone = asyncio.create_task(hold(later, budget.take(50, Priority.ROUTINE)))
        assert not await settled(gone)
        gone.cancel()
        await asyncio.wait({gone})
        await held.aclose()
        async with budget.take(100, Priority.ROUTINE):
            pass
