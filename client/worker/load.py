"""How much of a worker's machine its studies take together.

Routine studies wait where the machine is full; STAT studies never do.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from client.jobs import Priority

__all__ = ("Budget", "Gate", "LoadSettings")


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _half_the_cores() -> int:
    return max(1, _cores() // 2)


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """What studies may take together.

    Attributes:
        max_bytes: Memory of all studies in work; a larger one is worked on alone.
        kept_bytes: Memory that is kept for the next studies while none is in work.
        cpu_places: Routine studies that are read at a time, and written at a time: the engine
            needs cores as well.
        cores: Cores that decoding compressed frames may use.
    """

    max_bytes: int = 8 << 30
    kept_bytes: int = 512 << 20
    cpu_places: int = field(default_factory=_half_the_cores)
    cores: int = field(default_factory=_cores)


class Gate:
    """Lets so many routine studies through at a time, and shares cores among all who are inside.

    Args:
        places: How many.
        cores: The cores.
    """

    def __init__(self, places: int, cores: int = 1) -> None:
        self._places = asyncio.Semaphore(places)
        self._cores = cores
        self._inside = 0

    @asynccontextmanager
    async def place(self, priority: Priority) -> AsyncIterator[int]:
        """Wait for a place and keep it during the ``async with``.

        Yields:
            Cores for this study: all of them for STAT, else an equal share of what is there.
        """
        if priority is Priority.STAT:
            with self._count():
                yield self._cores
            return
        async with self._places:
            with self._count():
                yield max(1, self._cores // self._inside)

    @contextmanager
    def _count(self) -> Iterator[None]:
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1


class Budget:
    """Memory that studies in work share, first come, first served.

    Args:
        max_bytes: All of it.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._taken = 0
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def take(self, length: int, priority: Priority) -> AsyncIterator[None]:
        """Wait for so many bytes, or for all of them if there are fewer."""
        if priority is not Priority.STAT:
            async with self._turn:
                while self._taken and self._taken + length > self._max_bytes:
                    self._changed.clear()
                    await self._changed.wait()
        self._taken += length
        try:
            yield
        finally:
            self._taken -= length
            self._changed.set()
