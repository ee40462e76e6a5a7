"""Finds the rates of a stepped load: how many studies an hour the system does at its best.

always some studies in flight, for a while ──▶ studies per hour ──▶ steps around it
"""

from __future__ import annotations

import asyncio
import time
from itertools import count

from client.cli.sending import connect
from client.errors import Transient
from client.jobs import JobState, Priority
from client.settings import Settings
from loadtest.traffic.arrivals import Arrival
from loadtest.traffic.payloads import Payloads

__all__ = ("STEPS", "best_rate_per_h")

STEPS = (0.6, 0.75, 0.85, 0.95, 1.05)
"""Parts of the best rate that the steps then offer."""
_TOGETHER = 6
_PAYLOAD_SEED = 2**31
"""Other studies than any load's."""


async def best_rate_per_h(settings: Settings, slices: int, seconds: float) -> float:
    """Studies per hour with always six in flight: the gateway's and worker's places are full.

    Args:
        settings: Of the running system.
        slices: Of each head MR.
        seconds: How long; the first studies are not counted.

    Raises:
        Transient: A study did not end well.
    """
    payloads = Payloads(_PAYLOAD_SEED, ("mr_head",))
    numbers, ended = count(), list[float]()
    async with connect(settings) as client:

        async def keep_sending(until: float) -> None:
            while time.monotonic() < until:
                arrival = Arrival(next(numbers), 0.0, "mr_head", Priority.ROUTINE, slices)
                job = await client.submit(payloads.files(arrival))
                job = await client.wait(job.id)
                if job.state is not JobState.DONE:
                    raise Transient(f"Expected a result, but a study ended {job.state}.")
                ended.append(time.monotonic())

        await asyncio.gather(*(keep_sending(time.monotonic() + seconds) for _ in range(_TOGETHER)))
    # The last ones find the system ever emptier.
    counted = sorted(ended)[_TOGETHER - 1 : -_TOGETHER]
    if len(counted) < 2:
        raise Transient(f"Expected more than {2 * _TOGETHER} studies in {seconds:g} s.")
    return 3600 * (len(counted) - 1) / (counted[-1] - counted[0])
