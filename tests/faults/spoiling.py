"""What a spoilt line does to senders and gateway: phases of faults on one stack, then the judge.

phase ──spoils──▶ line ── senders ──▶ gateway (its memory is watched) ──▶ judge ──▶ LineOutcome
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.faults.journal import Journal, read_journal
from tests.faults.judge import Verdict, judge
from tests.faults.line import Line, line
from tests.faults.remote import remote_senders
from tests.faults.stand import Stand, stand

__all__ = (
    "LineOutcome",
    "Memory",
    "Phase",
    "half_open",
    "lossy",
    "partitions",
    "play_phases",
    "quiet",
    "resets",
    "slow",
    "watched_memory",
)

_NUMBERS = 2_000
_SLOW = "8mbit"
_LOOK_S = 0.25


@dataclass(frozen=True)
class Phase:
    """One kind of fault.

    Attributes:
        name: Short name.
        promise: What happens to the line, for people.
        spoils: Does it, and returns when it is over.
        senders: At one time.
        side: Rows and columns of the studies; 512 makes 1.5 MB.
        delay_s: Added each way by a proxy.
    """

    name: str
    promise: str
    spoils: Callable[[Line, Stand], Awaitable[None]]
    senders: int = 4
    side: int = 24
    delay_s: float = 0.0


@dataclass
class Memory:
    """Resident memory of the gateway, bytes: at first, and the most."""

    first_bytes: int = 0
    most_bytes: int = 0

    @property
    def grown_bytes(self) -> int:
        """How much was added."""
        return self.most_bytes - self.first_bytes


@dataclass
class LineOutcome:
    """What came of all phases."""

    verdict: Verdict
    memory: Memory
    acknowledged: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        content = asdict(self)
        content["verdict"]["attempts"] = dict(sorted(self.verdict.attempts.items()))
        return content


async def play_phases(phases: list[Phase], folder: Path) -> LineOutcome:
    """Run the phases one after the other, with everything in ``folder`` (a short path)."""
    began = time.monotonic()
    path = folder / "journal.jsonl"
    acknowledged: dict[str, int] = {}
    last_fault = began
    with line() as cable, Journal(path) as journal:
        async with stand(folder, host=cable.gateway) as running, watched_memory(running) as memory:
            for number, phase in enumerate(phases):
                before = _acknowledged(path)
                last_fault = await _play(phase, cable, running, path, first=number * _NUMBERS)
                acknowledged[phase.name] = _acknowledged(path) - before
            verdict = await judge(running, journal, last_fault)
    seconds = round(time.monotonic() - began, 1)
    return LineOutcome(verdict, memory, acknowledged, seconds)


async def _play(phase: Phase, cable: Line, running: Stand, path: Path, first: int) -> float:
    """Spoil the line while studies are sent; return when it was whole again."""
    senders = remote_senders(
        cable,
        running,
        path,
        senders=phase.senders,
        side=phase.side,
        delay_s=phase.delay_s,
        first=first,
    )
    async with _in_thread(senders):
        await _until_more(path, 1)
        await phase.spoils(cable, running)
        last_fault = time.monotonic()
        await _until_more(path, 1)
    return last_fault


@contextlib.asynccontextmanager
async def _in_thread(context: contextlib.AbstractContextManager[Any]) -> AsyncIterator[None]:
    """Enter here, leave in a thread: leaving waits for the senders to end."""
    context.__enter__()
    try:
        yield
    except BaseException as error:
        await asyncio.to_thread(context.__exit__, type(error), error, error.__traceback__)
        raise
    await asyncio.to_thread(context.__exit__, None, None, None)


def _acknowledged(path: Path) -> int:
    return sum(bool(upload.job_ids) for upload in read_journal(path).values())


async def _until_more(path: Path, more: int, timeout_s: float = 120.0) -> None:
    goal = _acknowledged(path) + more
    async with asyncio.timeout(timeout_s):
        while _acknowledged(path) < goal:
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def watched_memory(running: Stand) -> AsyncIterator[Memory]:
    """Note how much memory the gateway takes, through its restarts."""
    memory = Memory()

    async def watch() -> None:
        while True:
            with contextlib.suppress(psutil.Error):
                pid = running.service_pid("gateway")
                if pid:
                    taken = psutil.Process(pid).memory_info().rss
                    memory.first_bytes = memory.first_bytes or taken
                    memory.most_bytes = max(memory.most_bytes, taken)
            await asyncio.sleep(_LOOK_S)

    watching = asyncio.create_task(watch())
    try:
        yield memory
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def quiet(seconds: float) -> Callable[[Line, Stand], Awaitable[None]]:
    """Leave the line as it is."""

    async def spoils(_line: Line, _stand: Stand) -> None:
        await asyncio.sleep(seconds)

    return spoils


def lossy(seconds: float, probability: float) -> Callable[[Line, Stand], Awaitable[None]]:
    """Lose packets each way."""

    async def spoils(line: Line, _stand: Stand) -> None:
        with line.loss(probability):
            await asyncio.sleep(seconds)

    return spoils


def slow(seconds: float) -> Callable[[Line, Stand], Awaitable[None]]:
    """Let 8 Mbit/s pass."""

    async def spoils(line: Line, _stand: Stand) -> None:
        with line.slow(_SLOW):
            await asyncio.sleep(seconds)

    return spoils


def partitions(
    times: int, away_s: float, between_s: float
) -> Callable[[Line, Stand], Awaitable[None]]:
    """Take the cable out again and again."""

    async def spoils(line: Line, _stand: Stand) -> None:
        for _ in range(times):
            with line.unplugged():
                await asyncio.sleep(away_s)
            await asyncio.sleep(between_s)

    return spoils


def resets(times: int, seed: int = 0) -> Callable[[Line, Stand], Awaitable[None]]:
    """Reset connections in the middle of uploads, which a slow line makes long."""
    dice = random.Random(seed)

    async def spoils(line: Line, _stand: Stand) -> None:
        with line.slow(_SLOW):
            for _ in range(times):
                await asyncio.sleep(dice.uniform(0.5, 2.5))
                with line.resets():
                    await asyncio.sleep(0.2)

    return spoils


def half_open(times: int, silent_s: float) -> Callable[[Line, Stand], Awaitable[None]]:
    """Restart the gateway while nothing passes: its senders think that they are connected."""

    async def spoils(line: Line, stand: Stand) -> None:
        for _ in range(times):
            with line.silence():
                await asyncio.sleep(silent_s / 2)
                os.kill(await asyncio.to_thread(stand.pid, "gateway"), signal.SIGKILL)
                await asyncio.sleep(silent_s / 2)
            await asyncio.sleep(1.0)

    return spoils
