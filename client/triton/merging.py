"""Sends slices of several calls in one request while the server has enough to do.

call ─┐
call ─┼─ of one shape ─▶ request ─▶ each its masks
call ─┘

A request costs this process and the server about 3 CPU ms, however many slices it holds. What would
only wait in the server waits here until it is a request's worth. An answer does not depend on what
else a request holds, so studies of one slice go together like the slices of one study.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from client.telemetry.traces import current, together
from client.triton.transport import Inputs

if TYPE_CHECKING:
    from opentelemetry.trace import Span

__all__ = ("Merger",)

Send = Callable[[Inputs, NDArray[np.uint8], float], Awaitable[None]]


@dataclass(eq=False)
class _Part:
    """Slices of one call, and what it waits for."""

    inputs: Inputs
    masks: NDArray[np.uint8]
    timeout_s: float
    step: Span | None = field(default_factory=current)
    answered: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    @property
    def shape(self) -> tuple[tuple[int, ...], ...]:
        """Only slices of the same shape go together."""
        return tuple(array.shape[1:] for array in self.inputs.values())


class Merger:
    """Puts calls together.

    Slices wait here only while as many as wait are with the server, or more. If a request of
    several calls fails, each of them is sent by itself and gets its own error: nobody's slices are
    refused because of another study's.

    Args:
        send: Sends slices, see ``Transport.infer``.
        most: Slices that may go together now.
    """

    def __init__(self, send: Send, most: Callable[[], int]) -> None:
        self._send = send
        self._most = most
        self._waiting: dict[tuple[tuple[int, ...], ...], list[_Part]] = defaultdict(list)
        self._sent = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def infer(self, inputs: Inputs, masks: NDArray[np.uint8], timeout_s: float) -> None:
        """Asks for the masks of some slices, perhaps together with others.

        Args:
            inputs: The model's inputs by name, batch axis first.
            masks: Where the masks go, [slices, canvas rows, canvas columns].
            timeout_s: Deadline of a request.

        Raises:
            grpc.aio.AioRpcError: The server refused these slices, or is away.
        """
        part = _Part(inputs, masks, timeout_s)
        if len(masks) >= self._most():
            self._sent += len(masks)
            try:
                await self._send(inputs, masks, timeout_s)
            finally:
                self._sent -= len(masks)
                self._start()
            return
        self._waiting[part.shape].append(part)
        self._start()
        try:
            await part.answered
        except asyncio.CancelledError:
            with contextlib.suppress(KeyError, ValueError):
                self._waiting[part.shape].remove(part)
            raise

    async def close(self) -> None:
        """Gives up what waits and what is under way."""
        for part in (part for parts in self._waiting.values() for part in parts):
            part.answered.cancel()
        self._waiting.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self) -> None:
        """Sends what is a request's worth, and whatever waits once the server has less."""
        for shape, parts in [*self._waiting.items()]:
            while parts and (group := self._group(parts)):
                del parts[: len(group)]
                self._sent += _slices(group)
                task = asyncio.create_task(self._carry(group))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            if not parts:
                del self._waiting[shape]

    def _group(self, parts: Sequence[_Part]) -> list[_Part]:
        """Who of those that wait goes now; nobody if they better wait for more."""
        most, group = self._most(), list[_Part]()
        for part in parts:
            if group and _slices(group) + len(part.masks) > most:
                return group
            group.append(part)
        full = _slices(group) >= most
        return group if full or self._sent < _slices(group) else []

    async def _carry(self, group: Sequence[_Part]) -> None:
        try:
            if len(group) == 1 or not await self._carried(group):
                await asyncio.gather(*(self._alone(part) for part in group))
        finally:
            for part in group:
                part.answered.cancel()  # does nothing where there is an answer
            self._sent -= _slices(group)
            self._start()

    async def _carried(self, group: Sequence[_Part]) -> bool:
        """Sends all in one request; whether that went well."""
        inputs = {
            name: np.concatenate([part.inputs[name] for part in group]) for name in group[0].inputs
        }
        masks = np.concatenate([part.masks for part in group])
        try:
            with together([part.step for part in group]):
                await self._send(inputs, masks, min(part.timeout_s for part in group))
        except Exception:  # each of them is sent again, and told what it meets then
            return False
        ends = accumulate((len(part.masks) for part in group), initial=0)
        for part, (start, end) in zip(group, pairwise(ends), strict=True):
            if not part.answered.done():
                part.masks[...] = masks[start:end]
                part.answered.set_result(None)
        return True

    async def _alone(self, part: _Part) -> None:
        try:
            with together([part.step]):
                await self._send(part.inputs, part.masks, part.timeout_s)
        except Exception as error:
            if not part.answered.done():
                part.answered.set_exception(error)
        else:
            if not part.answered.done():
                part.answered.set_result(None)


def _slices(parts: Sequence[_Part]) -> int:
    return sum(len(part.masks) for part in parts)
