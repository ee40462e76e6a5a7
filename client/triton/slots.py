"""How many slices a server has at a time, and whose turn it is next.

STAT ──▶ lines of STAT calls ─────┐ one slice of each in turn
routine ▶ lines of routine calls ─┴─▶ place (at most ``target`` slices) ─▶ Triton

After eight STAT requests in a row comes a routine one, so that no flood stops the others for good.
Before STAT slices come, routine ones are kept back for a moment.
Triton forgets priorities after an ensemble's first step, so that only what is not sent yet can be
overtaken. One ``Slots`` is shared by every model and study of a worker.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator

from client.jobs import Priority
from client.triton.occupancy import Occupancy

__all__ = ("STAT_IN_A_ROW", "Line", "Slots")

_ORDER = (Priority.STAT, Priority.ROUTINE)
STAT_IN_A_ROW = 8
"""So many requests of STAT calls in a row, and then one of a routine call if one waits."""
_CLOCK_S = 0.01
START = 8
"""Target until a server's queue has shown a better one: two requests."""
HOLD_S = 1.0
"""Longest that routine slices are kept back for STAT ones to come; as long they then go on."""


class Slots:
    """Places for slices with a server.

    Args:
        most: Highest target. One request may ask for more if it comes alone.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.occupancy = Occupancy()
        """Of that server, by whose slices."""
        self._target = min(START, most)
        self._taken = 0
        self._stat_in_a_row = 0
        self._held_until = -2 * HOLD_S
        self._lines: dict[Priority, deque[Line]] = {one: deque() for one in _ORDER}

    @property
    def taken(self) -> int:
        """Slices with the server now."""
        return self._taken

    @property
    def waiting(self) -> bool:
        """Whether anybody waits for a place."""
        return any(self._lines.values())

    @property
    def target(self) -> int:
        """Places in use at most, 1 to ``most``."""
        return self._target

    @target.setter
    def target(self, places: int) -> None:
        self._target = min(max(places, 1), self.most)
        self._admit()

    def line(self, priority: Priority) -> Line:
        """A line for the slices of one call; lines of the same priority take turns."""
        return Line(self, priority)

    def make_way(self) -> None:
        """Send no routine slices for a moment, because STAT ones are about to come.

        What the server has by then cannot be overtaken. The moment ends as soon as they come.
        """
        loop = asyncio.get_running_loop()
        if loop.time() > self._held_until + HOLD_S:
            self._held_until = loop.time() + HOLD_S
            loop.call_later(HOLD_S + _CLOCK_S, self._admit)

    def join(self, line: Line) -> None:
        """Takes note that somebody waits in a line."""
        if line not in self._lines[line.priority]:
            self._lines[line.priority].append(line)
        if line.priority is Priority.STAT:
            self._held_until = min(self._held_until, asyncio.get_running_loop().time())
        self._admit()

    def _leave(self, line: Line) -> None:
        with contextlib.suppress(ValueError):
            self._lines[line.priority].remove(line)

    def release(self, slices: int) -> None:
        """Gives places back."""
        self._taken -= slices
        self._admit()

    def _admit(self) -> None:
        while (line := self._next()) is not None:
            slices, turn = line.waiting[0]
            if turn.cancelled():
                line.waiting.popleft()
            elif self._taken and self._taken + slices > self._target:
                return
            else:
                line.waiting.popleft()
                self._taken += slices
                urgent = line.priority is Priority.STAT
                self._stat_in_a_row = self._stat_in_a_row + 1 if urgent else 0
                turn.set_result(None)
            self._leave(line)
            if line.waiting:
                self._lines[line.priority].append(line)

    def _next(self) -> Line | None:
        stat, routine = self._lines[Priority.STAT], self._lines[Priority.ROUTINE]
        if stat and (self._stat_in_a_row < STAT_IN_A_ROW or not routine):
            return stat[0]
        if asyncio.get_running_loop().time() < self._held_until:
            return None
        return routine[0] if routine else None


class Line:
    """Those of one call who wait for a place; made by ``Slots.line``."""

    def __init__(self, slots: Slots, priority: Priority) -> None:
        self.priority = priority
        self.waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._slots = slots

    @contextlib.asynccontextmanager
    async def place(self, slices: int) -> AsyncIterator[None]:
        """Waits for so many places and keeps them inside the context."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((slices, turn))
        self._slots.join(self)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was given, and nobody is there to take it
                self._slots.release(slices)
            raise
        try:
            yield
        finally:
            self._slots.release(slices)
