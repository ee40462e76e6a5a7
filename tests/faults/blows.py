"""What a stand suffers: kills of each part, crashes at named steps, a wiped queue, frozen workers.

plan(seed) ──▶ Target … ──▶ strike ──▶ which process was killed
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Mapping
from enum import StrEnum

import psutil
import redis.asyncio

from client.faultpoints import Blow, Step, arm
from tests.faults.erasures import erase_one
from tests.faults.senders import Load
from tests.faults.stand import Stand

__all__ = ("SHARES", "Target", "crash_at", "freeze_a_worker", "plan", "strike", "wipe_queue")

_ERASURE = frozenset((Step.KEY_DESTROYED, Step.ERASURE_PROVED))
_FIND_S = 60.0
_STEP_S = 60.0


class Target(StrEnum):
    """What may be killed."""

    GATEWAY = "gateway"
    WORKER = "worker"
    QUEUE = "queue"
    TRITON = "triton"
    STUB = "stub"
    DATABASE = "database"
    STORE = "store"


SHARES: Mapping[Target, int] = {
    Target.GATEWAY: 9,
    Target.WORKER: 10,
    Target.QUEUE: 8,
    Target.TRITON: 4,
    Target.STUB: 6,
    Target.DATABASE: 8,
    Target.STORE: 5,
}
"""Of 50 kills. What takes long to start again gets fewer, so that a run is not mostly waiting."""


def plan(kills: int, targets: frozenset[Target], seed: int) -> list[Target]:
    """Return so many targets in random order, each at least once, by their shares."""
    chosen = [target for target in SHARES if target in targets]
    whole = sum(SHARES[target] for target in chosen)
    drawn = [t for t in chosen for _ in range(max(1, kills * SHARES[t] // whole))]
    dice = random.Random(seed)
    drawn += dice.choices(chosen, k=max(0, kills - len(drawn)))
    dice.shuffle(drawn)
    return drawn[: max(kills, len(chosen))]


async def strike(stand: Stand, target: Target, dice: random.Random) -> None:
    """Kill one process of a target, as soon as there is one, ready or not."""
    if target is Target.STORE:
        await stand.around.kill_store()
    elif target is Target.DATABASE:
        await _strike_database(stand, dice)
    else:
        pid = await _find(stand, target, dice)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def _strike_database(stand: Stand, dice: random.Random) -> None:
    """Kill the whole server, or one of its processes, which makes it recover from its log."""
    assert stand.around.database is not None
    backends = stand.around.database.backends()
    if dice.random() < 0.5 or not backends:
        await stand.around.kill_database()
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        dice.choice(backends).kill()


async def _find(stand: Stand, target: Target, dice: random.Random) -> int:
    async with asyncio.timeout(_FIND_S):
        while True:
            if target is Target.STUB:
                pids = stand.stub_pids()
            else:
                pid = stand.service_pid(target)
                pids = [] if pid is None else [pid]
            if pids:
                return dice.choice(pids)
            await asyncio.sleep(0.05)


async def crash_at(stand: Stand, load: Load, step: Step) -> None:
    """Kill the next process that reaches a step; return when it happened.

    Steps that no study passes on its way are brought about: by emptying the queue, by erasing.
    """
    armed = arm(stand.faults, step)
    if step in _ERASURE:
        await erase_one(stand, load)
    async with asyncio.timeout(_STEP_S):
        while await asyncio.to_thread(armed.exists):
            if step is Step.REQUEUED:
                # Again and again: there may have been nothing in the queue to lose.
                await _flush(stand)
            await asyncio.sleep(0.02)


async def freeze_a_worker(stand: Stand, second: subprocess.Popen[bytes], away_s: float) -> None:
    """Freeze whichever worker next has a result stored, for longer than its lease, then wake it.

    Args:
        stand: The stand.
        second: Its other worker.
        away_s: How long.
    """
    await _until_gone(stand, Step.RESULT_STORED)
    pids = [stand.service_pid("worker"), second.pid]
    frozen = [p for pid in pids if pid and (p := psutil.Process(pid)).status() == "stopped"]
    await asyncio.sleep(away_s)
    for process in frozen:
        process.resume()
    assert frozen, "no worker stands still"


async def _until_gone(stand: Stand, step: Step) -> None:
    armed = arm(stand.faults, step, Blow.FREEZE)
    async with asyncio.timeout(_STEP_S):
        while await asyncio.to_thread(armed.exists):
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.1)


async def wipe_queue(stand: Stand) -> None:
    """Empty the queue, kill its server, and delete what it keeps on disk."""
    await _flush(stand)
    server = await _find(stand, Target.QUEUE, random.Random(0))
    os.kill(server, signal.SIGKILL)
    for folder in (stand.home / "queue").glob("appendonlydir*"):
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _flush(stand: Stand) -> None:
    """Empty the queue, as soon as it is there: it may have been killed a moment ago."""
    client = redis.asyncio.Redis.from_url(f"unix://{stand.home / 'queue' / 'valkey.sock'}")
    try:
        async with asyncio.timeout(_FIND_S):
            while True:
                with contextlib.suppress(redis.exceptions.ConnectionError):
                    await client.flushall()
                    return
                await asyncio.sleep(0.05)
    finally:
        await client.aclose()
