"""The acts of a chaos run: what is broken while studies go through, and what the judge then says.

act ──▶ surroundings + stand + senders ──faults──▶ senders end ──▶ judge ──▶ Outcome
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from client.faultpoints import Step
from tests.faults.blows import Target, crash_at, freeze_a_worker, plan, strike, wipe_queue
from tests.faults.journal import Journal
from tests.faults.judge import Verdict, judge
from tests.faults.senders import Load, sending
from tests.faults.stand import Stand, stand
from tests.faults.surroundings import surroundings

__all__ = (
    "Act",
    "Arena",
    "Outcome",
    "crash_at_each_step",
    "fill_the_disk",
    "freeze_workers",
    "kill_everything",
    "kill_parts",
    "play",
    "wipe_the_queue",
)

_HOME_MIB = 96
_WARM_UP_STUDIES = 4
_SETTLED_BETWEEN = 4


@dataclass
class Arena:
    """What an act breaks, and what it counts."""

    stand: Stand
    load: Load
    dice: random.Random
    struck: Counter[str] = field(default_factory=Counter)


Breaking = Callable[[Arena], Awaitable[None]]


@dataclass(frozen=True)
class Act:
    """One part of a chaos run, with a stack of its own.

    Attributes:
        name: Short name.
        promise: What must hold, for people.
        breaks: Does the damage.
        database: PostgreSQL as the ledger, else SQLite.
        store: An S3 server as the object store, else a folder.
        small_disk: The whole home lies on a small disk of its own.
        studies: At least so many are acknowledged before the last fault.
        seed: Of everything random.
    """

    name: str
    promise: str
    breaks: Breaking
    database: bool = False
    store: bool = False
    small_disk: bool = False
    studies: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What an act did and what the judge said."""

    act: str
    promise: str
    struck: dict[str, int]
    verdict: Verdict
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        content = asdict(self)
        content["verdict"]["attempts"] = dict(sorted(self.verdict.attempts.items()))
        return content | {"held": self.verdict.held}


async def play(act: Act, folder: Path) -> Outcome:
    """Run one act with everything in ``folder``, whose path must be short."""
    began = time.monotonic()
    changes: dict[str, Any] = {"studies_in_flight": 2} if act.small_disk else {}
    with (
        surroundings(folder, database=act.database, store=act.store) as around,
        Journal(folder / "journal.jsonl") as journal,
        _small_disk(folder / "s") if act.small_disk else contextlib.nullcontext(),
    ):
        async with stand(folder, around, **changes) as running:
            arena = Arena(running, Load(running.client, journal), random.Random(act.seed))
            async with sending(arena.load):
                await arena.load.until_acknowledged(_WARM_UP_STUDIES)
                await act.breaks(arena)
                await arena.load.until_acknowledged(act.studies - arena.load.acknowledged)
                last_fault = time.monotonic()
            verdict = await judge(running, journal, last_fault)
    seconds = round(time.monotonic() - began, 1)
    return Outcome(act.name, act.promise, dict(arena.struck), verdict, seconds)


def kill_parts(kills: int, targets: frozenset[Target], pause_s: tuple[float, float]) -> Breaking:
    """Kill processes at random moments.

    Args:
        kills: How many.
        targets: Which parts.
        pause_s: Shortest and longest time between two.
    """

    async def breaks(arena: Arena) -> None:
        for target in plan(kills, targets, arena.dice.randrange(1 << 30)):
            await asyncio.sleep(arena.dice.uniform(*pause_s))
            await strike(arena.stand, target, arena.dice)
            arena.struck[f"kill {target}"] += 1

    return breaks


def crash_at_each_step(times: int) -> Breaking:
    """Crash whichever process reaches a step, for every step there is."""

    async def breaks(arena: Arena) -> None:
        rounds = [arena.dice.sample(list(Step), len(Step)) for _ in range(times)]
        for step in itertools.chain.from_iterable(rounds):
            await crash_at(arena.stand, arena.load, step)
            arena.struck[f"crash at {step}"] += 1

    return breaks


def wipe_the_queue(times: int) -> Breaking:
    """Take everything that the queue holds, in memory and on disk."""

    async def breaks(arena: Arena) -> None:
        for _ in range(times):
            await wipe_queue(arena.stand)
            arena.struck["wipe the queue"] += 1
            await arena.load.until_acknowledged(_SETTLED_BETWEEN)

    return breaks


def freeze_workers(times: int) -> Breaking:
    """Freeze a worker with a result in hand until another one has taken its study over."""

    async def breaks(arena: Arena) -> None:
        away_s = 2 * arena.stand.settings.lease_s
        with arena.stand.second_worker() as second:
            for _ in range(times):
                await freeze_a_worker(arena.stand, second, away_s)
                arena.struck["freeze a worker"] += 1

    return breaks


def kill_everything(times: int) -> Breaking:
    """Kill every process of the stack at once and start it again."""

    async def breaks(arena: Arena) -> None:
        for _ in range(times):
            await asyncio.sleep(arena.dice.uniform(0.5, 2.0))
            await asyncio.to_thread(arena.stand.kill_all)
            arena.struck["all processes killed at once"] += 1
            await arena.stand.start()

    return breaks


def fill_the_disk(times: int, full_s: float) -> Breaking:
    """Leave no byte of the home's disk free for a while."""

    async def breaks(arena: Arena) -> None:
        for _ in range(times):
            filler = arena.stand.home / "filler"
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(1 << 12))
            await asyncio.sleep(full_s)
            filler.unlink()
            arena.struck["fill the disk"] += 1
            await arena.load.until_acknowledged(_SETTLED_BETWEEN)

    return breaks


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    """Mount a small disk in memory there; needs root.

    Raises:
        PermissionError: We may not.
    """
    folder.mkdir(mode=0o700)
    options = f"size={_HOME_MIB}m,mode=0700"
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        raise PermissionError(f"Mounting a small disk is not allowed here: {made.stderr!r}")
    try:
        yield
    finally:
        with contextlib.suppress(OSError, shutil.Error):
            shutil.copytree(folder / "logs", folder.parent / "logs")  # they go with the disk
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
