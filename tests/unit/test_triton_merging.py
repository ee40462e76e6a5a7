"""Calls go together only while others are under way, and never share an error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from client.telemetry.traces import joining, traceparent, use
from client.triton.merging import Merger
from client.triton.transport import Inputs

pytestmark = pytest.mark.unit

MOST = 4


class Server:
    """Answers each slice with its own number, after a while; refuses requests with a bad one."""

    def __init__(self, *bad: int, pause: Callable[[], float] = lambda: 0.01) -> None:
        self.requests: list[list[int]] = []
        self._bad = {*bad}
        self._pause = pause

    async def send(self, inputs: Inputs, masks: NDArray[np.uint8], timeout_s: float) -> None:
        numbers = inputs["image"].reshape(len(masks), -1)[:, 0].tolist()
        self.requests.append(numbers)
        await asyncio.sleep(self._pause())
        if self._bad.intersection(numbers):
            raise ValueError(f"bad: {numbers}")
        masks[...] = inputs["image"].reshape(len(masks), -1)[:, :1].astype(np.uint8)[:, None]


def call(merger: Merger, *numbers: int, side: int = 2) -> asyncio.Task[list[int]]:
    """Asks for slices with these numbers."""

    async def infer() -> list[int]:
        image = np.repeat(np.array(numbers, np.int16), side * side).reshape(-1, side, side)
        masks = np.zeros((len(numbers), 3, 3), np.uint8)
        await merger.infer({"image": image, "size": np.zeros((len(numbers), 2))}, masks, 1.0)
        assert (masks == masks[:, :1, :1]).all()
        found: list[int] = masks[:, 0, 0].tolist()
        return found

    return asyncio.create_task(infer())


async def test_a_lone_call_goes_at_once() -> None:
    server = Server()
    merger = Merger(server.send, lambda: MOST)
    assert await call(merger, 7) == [7]
    assert server.requests == [[7]]


async def test_what_comes_while_others_are_under_way_goes_together() -> None:
    server = Server()
    merger = Merger(server.send, lambda: MOST)
    answers = await asyncio.gather(*(call(merger, number) for number in range(9)))
    assert answers == [[number] for number in range(9)]
    # More wait for each other the more is under way.
    assert sorted(server.requests) == [[0], [1, 2], [3, 4, 5, 6], [7, 8]]


async def test_a_call_that_is_a_requests_worth_waits_for_nobody() -> None:
    server = Server()
    merger = Merger(server.send, lambda: MOST)
    calls = [call(merger, 1, 2, 3, 4), call(merger, 5), call(merger, 6, 7, 8, 9)]
    await asyncio.gather(*calls)
    assert server.requests == [[1, 2, 3, 4], [6, 7, 8, 9], [5]]


async def test_slices_of_another_shape_go_apart() -> None:
    server = Server()
    merger = Merger(server.send, lambda: MOST)
    calls = [call(merger, number, side=2 + number % 2) for number in range(9)]
    assert await asyncio.gather(*calls) == [[number] for number in range(9)]
    assert all(len({number % 2 for number in request}) == 1 for request in server.requests)
    assert max(map(len, server.requests)) == MOST


async def test_a_refusal_is_the_bad_calls_alone() -> None:
    server = Server(3)
    merger = Merger(server.send, lambda: MOST)
    answers = await asyncio.gather(
        *(call(merger, number) for number in range(5)), return_exceptions=True
    )
    assert [answers[number] for number in (0, 1, 2, 4)] == [[0], [1], [2], [4]]
    assert isinstance(answers[3], ValueError)
    assert str(answers[3]) == "bad: [3]"


async def test_whoever_is_cancelled_holds_up_nobody() -> None:
    server = Server()
    merger = Merger(server.send, lambda: MOST)
    calls = [call(merger, number) for number in range(8)]
    await asyncio.sleep(0.001)
    for gone in (calls[1], calls[6]):  # one that is sent, one that waits
        gone.cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    kept = [number for number in range(8) if number not in (1, 6)]
    assert [answers[number] for number in kept] == [[number] for number in kept]
    assert all(isinstance(answers[number], asyncio.CancelledError) for number in (1, 6))
    assert [6] not in server.requests
    assert await call(merger, 9) == [9]


async def test_closing_ends_who_waits() -> None:
    server = Server(pause=lambda: 60.0)
    merger = Merger(server.send, lambda: MOST)
    calls = [call(merger, number) for number in range(6)]
    await asyncio.sleep(0.001)
    await merger.close()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers)


async def test_what_goes_together_is_traced_under_the_first_and_found_from_the_others() -> None:
    kept = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    server = Server()
    told: list[tuple[list[int], str]] = []

    async def send(inputs: Inputs, masks: NDArray[np.uint8], timeout_s: float) -> None:
        await server.send(inputs, masks, timeout_s)
        told.append((inputs["image"][:, 0, 0].tolist(), (traceparent() or "")[3:35]))

    async def one(number: int) -> None:
        with joining("infer", f"00-{number + 1:032x}-{number + 1:016x}-01", slices=1):
            assert await call(merger, number) == [number]

    merger = Merger(send, lambda: MOST)
    with use(provider.get_tracer("test")):
        await asyncio.gather(*(one(number) for number in range(9)))
    assert sorted(told) == [
        (numbers, f"{numbers[0] + 1:032x}") for numbers in ([0], [1, 2], [3, 4, 5, 6], [7, 8])
    ]
    links = {
        step.context.trace_id - 1: [link.context.trace_id - 1 for link in step.links]
        for step in kept.get_finished_spans()
        if step.context is not None
    }
    assert links == {0: [], 1: [], 2: [1], 3: [], 4: [3], 5: [3], 6: [3], 7: [], 8: [7]}


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=30),
    pauses=st.lists(st.sampled_from([0.0, 0.001, 0.003]), min_size=1, max_size=7),
    most=st.integers(1, 5),
)
def test_every_call_gets_its_own_slices(
    sizes: Sequence[int], pauses: Sequence[float], most: int
) -> None:
    async def run() -> None:
        turns = iter(range(10**6))
        server = Server(pause=lambda: pauses[next(turns) % len(pauses)])
        merger = Merger(server.send, lambda: most)
        starts = [sum(sizes[:place]) for place in range(len(sizes))]
        wanted = [[*range(s, s + n)] for s, n in zip(starts, sizes, strict=True)]
        calls: list[Any] = []
        for place, numbers in enumerate(wanted):
            calls.append(call(merger, *numbers))
            if place % 3 == 0:
                await asyncio.sleep(0)
        assert await asyncio.gather(*calls) == wanted
        assert sorted(chain(*server.requests)) == [*range(sum(sizes))]
        assert all(len(one) <= max(most, *sizes) for one in server.requests)

    asyncio.run(run())
