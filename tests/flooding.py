"""Measures what a good client notices while an attacker floods the gateway.

gateway under test ◀── good client, one call after the other ──▶ p99 before │ during
        ▲── attacker, a process of its own ──▶ when was each of its connections ended
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil

from client.crypto.keydirectory import create_key_directory
from client.limits import ServiceLimits
from client.proto import ingest_pb2
from tests.access_matrix import open_stub
from tests.attacker import ATTACKER
from tests.gateways import GatewayUnderTest, running_gateway

__all__ = ("Flood", "Seen", "flooded", "p99_ms", "under_attack")

_PAUSE_S = 0.01
_MIB = 1 << 20


@dataclass(frozen=True)
class Flood:
    """An attack.

    Attributes:
        kind: One of ``tests.attacker.KINDS``.
        count: Connections or streams.
        ended_within_s: By when the gateway must have ended every one of them.
        interval_s: Between two bytes of a slow stream.
    """

    kind: str
    count: int
    ended_within_s: float
    interval_s: float = 10.0


@dataclass(frozen=True)
class Seen:
    """What one attack did.

    Attributes:
        opened: Connections or streams that the attacker opened.
        ended: Those that the gateway ended; for rapid reset, those the attacker reset.
        longest_s: Until the last one was ended.
        took_s: Duration of the attack.
        before_ms: The good client's p99 right before.
        during_ms: Its p99 while the attack lasted.
        median_before_ms: Its median right before.
        median_during_ms: Its median while the attack lasted.
        calls: Calls of the good client during it.
        failed: Calls of the good client that failed, before or during it.
        grown_mib: Memory that the process of the gateway gained.
    """

    opened: int
    ended: int
    longest_s: float
    took_s: float
    before_ms: float
    during_ms: float
    median_before_ms: float
    median_during_ms: float
    calls: int
    failed: int
    grown_mib: float

    @property
    def ratio(self) -> float:
        """How much longer the good client waited."""
        return self.during_ms / self.before_ms


def p99_ms(took_s: list[float]) -> float:
    """Return the 99th percentile (nearest rank) in milliseconds."""
    return sorted(took_s)[math.ceil(0.99 * len(took_s)) - 1] * 1000


@contextlib.asynccontextmanager
async def under_attack(folder: Path, limits: ServiceLimits) -> AsyncIterator[GatewayUnderTest]:
    """Serve on a free port, with a certificate for the attacker."""
    async with running_gateway(folder, limits) as gateway:
        create_key_directory(gateway.keys.root, ATTACKER)
        yield gateway


async def flooded(
    gateway: GatewayUnderTest, flood: Flood, baseline_s: float, rounds: int = 1
) -> Seen:
    """Attack and measure.

    Args:
        gateway: Whom.
        flood: How.
        baseline_s: How long the good client is measured before each attack.
        rounds: How often; percentiles are of all rounds together, since a short attack has few
            calls and the machine has moods.
    """
    process = psutil.Process()
    async with gateway.sender() as client, open_stub(gateway) as stub:
        job = await client.submit([b"good"])
        request = ingest_pb2.GetJobRequest(job_id=job.id)
        memory = process.memory_info().rss
        before, during, told = list[float](), list[float](), list[dict[str, float]]()
        failures = 0
        for _ in range(rounds):
            calm = asyncio.create_task(asyncio.sleep(baseline_s))
            failures += await _call_until(stub, request, calm, before)
            attack = asyncio.create_task(_attack(gateway, flood))
            failures += await _call_until(stub, request, attack, during)
            told.append(await attack)
    return Seen(
        opened=sum(int(one["opened"]) for one in told),
        ended=sum(int(one["ended"]) for one in told),
        longest_s=round(max(one["longest_s"] for one in told), 2),
        took_s=round(sum(one["took_s"] for one in told), 2),
        before_ms=round(p99_ms(before), 1),
        during_ms=round(p99_ms(during), 1),
        median_before_ms=round(statistics.median(before) * 1000, 1),
        median_during_ms=round(statistics.median(during) * 1000, 1),
        calls=len(during),
        failed=failures,
        grown_mib=round((process.memory_info().rss - memory) / _MIB, 1),
    )


async def _call_until(
    stub: Any, request: ingest_pb2.GetJobRequest, end: asyncio.Task[Any], took_s: list[float]
) -> int:
    """Call until a task has ended, and note how long each call took; return how many failed."""
    failed = 0
    while not end.done():
        start = time.perf_counter()
        try:
            await stub.GetJob(request, timeout=30)
        except grpc.aio.AioRpcError:
            failed += 1
        took_s.append(time.perf_counter() - start)
        await asyncio.sleep(_PAUSE_S)
    return failed


async def _attack(gateway: GatewayUnderTest, flood: Flood) -> dict[str, float]:
    port, keys = str(gateway.gateway.port), str(gateway.keys.root)
    patience_s = 3 * flood.ended_within_s + 30
    numbers = (str(flood.count), str(patience_s), str(flood.interval_s))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.attacker", flood.kind, port, keys, *numbers),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    told: dict[str, float] = json.loads(out)
    return told
