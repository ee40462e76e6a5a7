"""Takes turns: every load once per round, and what each of them cost.

round 1: raw ▸ ensemble ▸ peer ▸ raw … ▸ whole way ▸ large study ▸ STAT ─▶ round 2 …
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from statistics import median

import numpy as np

from loadtest.accounting import read_cpu, spent
from loadtest.cast import Cast
from loadtest.loads import Load
from loadtest.memory import MemoryWatcher
from loadtest.report import Measurement, Memory, Round, spans
from loadtest.stillness import Stillness
from loadtest.ways import Way

__all__ = ("Processes", "measure_rounds", "warm_up")

Processes = Mapping[tuple[str, str], Mapping[str, int]]
Announce = Callable[[str], None]


async def warm_up(cast: Cast, loads: Sequence[Load], announce: Announce) -> Processes:
    """Runs every way once under its highest load, unmeasured.

    Returns:
        The processes of each way, which stay the same from now on.

    Raises:
        Transient: A part died.
    """
    highest = {(load.way, load.precision): load for load in sorted(loads, key=_in_flight)}
    for key, load in highest.items():
        announce(f"warming up: {load.way}, {load.precision}")
        await cast.ways[key].run(load.in_flight)
    return {key: way.processes() for key, way in cast.ways.items()}


def _in_flight(load: Load) -> int:
    return load.in_flight


async def measure_rounds(
    cast: Cast,
    loads: Sequence[Load],
    rounds: int,
    processes: Processes,
    announce: Announce,
) -> AsyncIterator[Round]:
    """Measures every load in every round; yields each round when it is complete.

    Whoever does not take part in a load is stopped meanwhile.

    Raises:
        Transient: A part died during the run.
    """
    with Stillness(spared={cast.watcher.pid}) as stillness:
        for number in range(1, rounds + 1):
            yield await _round(cast, loads, processes, stillness, _titled(announce, number, rounds))


def _titled(announce: Announce, number: int, rounds: int) -> Announce:
    return lambda what: announce(f"round {number} of {rounds}: {what}")


async def _round(
    cast: Cast,
    loads: Sequence[Load],
    processes: Processes,
    stillness: Stillness,
    announce: Announce,
) -> Round:
    before = os.getloadavg()
    measured = []
    for load in loads:
        announce(f"{load.way}, {load.precision}, {load.title}")
        await asyncio.to_thread(stillness.only, processes[load.way, load.precision].values())
        way = cast.ways[load.way, load.precision]
        measured.append(await _measure(way, load, processes, cast.watcher))
    tier = large = urgent = None
    if cast.tier is not None:
        announce("steps of the client tier")
        await asyncio.to_thread(stillness.only, ())
        tier = await asyncio.to_thread(cast.tier.run)
    if cast.large is not None:
        announce("a large study")
        await asyncio.to_thread(stillness.only, cast.large.processes().values())
        large = await cast.large.run(_everyone(processes, cast.watcher))
    if cast.urgent is not None:
        announce("STAT studies")
        await asyncio.to_thread(stillness.only, cast.urgent.processes().values())
        urgent = await cast.urgent.run()
    return Round(before, tuple(measured), tier, large, urgent)


async def _measure(
    way: Way, load: Load, processes: Processes, watcher: MemoryWatcher
) -> Measurement:
    ours = processes[load.way, load.precision]
    everyone = _everyone(processes, watcher)
    watcher.begin(ours, everyone - {*ours.values()})
    before = read_cpu(everyone)
    began = time.perf_counter()
    work = await way.run(load.in_flight)
    wall_s = time.perf_counter() - began
    after = read_cpu(everyone)
    peaks = watcher.end()
    cpu_s = spent(before, after, ours)
    machine_s = after.machine_s - before.machine_s
    return Measurement(
        way=load.way,
        precision=load.precision,
        in_flight=load.in_flight,
        slices=work.slices,
        wall_s=round(wall_s, 4),
        latency_p50_s=round(median(work.latencies_s), 5),
        latency_p99_s=round(float(np.percentile(work.latencies_s, 99)), 5),
        units=len(work.latencies_s),
        cpu_s=spans(cpu_s),
        others_cpu_s=round(max(0.0, machine_s - sum(cpu_s.values())), 3),
        memory=tuple(Memory(name, mib) for name, mib in peaks.items()),
        stages_s=spans(work.stages_s),
    )


def _everyone(processes: Processes, watcher: MemoryWatcher) -> set[int]:
    """Whoever is named: nearly all are children of this process, but not on its account."""
    return {pid for named in processes.values() for pid in named.values()} | {watcher.pid}
