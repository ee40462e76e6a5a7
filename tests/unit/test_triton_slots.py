"""Whose slices go to the server next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.jobs import Priority
from client.triton.slots import STAT_IN_A_ROW, Line, Slots

pytestmark = pytest.mark.unit

STAT, ROUTINE = Priority.STAT, Priority.ROUTINE


@asynccontextmanager
async def taken(slots: Slots) -> AsyncIterator[AsyncExitStack]:
    """Every place is taken until the yielded stack is closed."""
    async with AsyncExitStack() as held:
        for _ in range(slots.most):
            await held.enter_async_context(slots.line(ROUTINE).place(1))
        yield held


def send(line: Line, name: str, order: list[str], slices: int = 1) -> asyncio.Task[None]:
    async def one() -> None:
        async with line.place(slices):
            order.append(name)
            await asyncio.sleep(0)

    return asyncio.create_task(one())


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_stat_goes_first_and_studies_take_turns() -> None:
    slots = Slots(1)
    order: list[str] = []
    async with taken(slots) as held:
        tasks = []
        for name, priority in (("a", ROUTINE), ("b", ROUTINE), ("s", STAT), ("t", STAT)):
            line = slots.line(priority)
            tasks += [send(line, f"{name}{index}", order) for index in range(3)]
        await settle()
        assert order == []
        assert slots.waiting
        await held.aclose()
    await asyncio.gather(*tasks)
    assert order == ["s0", "t0", "s1", "t1", "s2", "t2", "a0", "b0", "a1", "b1", "a2", "b2"]
    assert slots.taken == 0
    assert not slots.waiting


async def test_a_stat_slice_that_comes_late_is_next() -> None:
    slots = Slots(1)
    order: list[str] = []
    async with taken(slots) as held:
        routine = slots.line(ROUTINE)
        tasks = [send(routine, f"r{index}", order) for index in range(50)]
        await settle()
        tasks.append(send(slots.line(STAT), "stat", order))
        await settle()
        await held.aclose()
    await asyncio.gather(*tasks)
    assert order[0] == "stat"


async def test_a_flood_of_stat_leaves_every_ninth_place_to_routine() -> None:
    slots = Slots(1)
    order: list[str] = []
    async with taken(slots) as held:
        stat, routine = slots.line(STAT), slots.line(ROUTINE)
        tasks = [send(stat, "s", order) for _ in range(40)]
        tasks += [send(routine, "r", order) for _ in range(3)]
        await settle()
        await held.aclose()
        await asyncio.gather(*tasks)
    assert "".join(order) == ("s" * STAT_IN_A_ROW + "r") * 3 + "s" * (40 - 3 * STAT_IN_A_ROW)


async def test_routine_waits_a_moment_for_stat_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.triton.slots.HOLD_S", 0.2)
    slots, order = Slots(1), list[str]()
    slots.make_way()
    tasks = [send(slots.line(ROUTINE), "r", order)]
    await settle()
    assert order == []
    tasks.append(send(slots.line(STAT), "s", order))
    await asyncio.gather(*tasks)
    assert order == ["s", "r"]


async def test_a_moment_ends_and_does_not_come_again_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever announces STAT studies that never come holds routine ones up half of the time."""
    monkeypatch.setattr("client.triton.slots.HOLD_S", 0.2)
    slots, order = Slots(1), list[str]()
    slots.make_way()
    await asyncio.wait_for(send(slots.line(ROUTINE), "r", order), 5)
    slots.make_way()
    tasks = [send(slots.line(ROUTINE), "r", order)]
    await settle()
    assert order == ["r", "r"]
    await asyncio.gather(*tasks)


async def test_a_request_larger_than_all_places_goes_alone() -> None:
    slots = Slots(2)
    order: list[str] = []
    async with slots.line(ROUTINE).place(1):
        large = send(slots.line(ROUTINE), "large", order, slices=4)
        await settle()
        assert order == []
    await large
    assert order == ["large"]


async def test_a_lower_target_holds_back_and_a_higher_one_lets_go() -> None:
    slots = Slots(4)
    order: list[str] = []
    slots.target = 1
    async with slots.line(ROUTINE).place(1):
        task = send(slots.line(ROUTINE), "second", order)
        await settle()
        assert order == []
        slots.target = 9
        assert slots.target == 4
        await task
    slots.target = 0
    assert slots.target == 1


async def test_an_error_gives_the_place_back() -> None:
    slots = Slots(1)
    with pytest.raises(ZeroDivisionError):
        async with slots.line(ROUTINE).place(1):
            raise ZeroDivisionError
    assert slots.taken == 0


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_no_place_is_lost_or_taken_twice(data: st.DataObject) -> None:
    """Calls of both priorities, of several sizes, some of them cancelled at any moment."""
    most = data.draw(st.integers(1, 5))
    calls = data.draw(
        st.lists(st.tuples(st.sampled_from(Priority), st.integers(1, 6)), max_size=15)
    )
    ends = data.draw(st.lists(st.integers(0, 14), max_size=8))

    async def scenario() -> None:
        slots = Slots(most)
        lines = {priority: [slots.line(priority) for _ in range(2)] for priority in Priority}

        async def call(number: int, priority: Priority, slices: int) -> None:
            async with lines[priority][number % 2].place(slices):
                assert slots.taken <= max(most, slices)
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(call(n, *one)) for n, one in enumerate(calls)]
        for victim in ends:
            await asyncio.sleep(0)
            if victim < len(tasks):
                tasks[victim].cancel()
        for answer in await asyncio.gather(*tasks, return_exceptions=True):
            assert answer is None or isinstance(answer, asyncio.CancelledError)
        assert slots.taken == 0
        assert not slots.waiting

    asyncio.run(scenario())
