"""Reads from a real server what KEDA's redis-streams scaler would read there.

trigger ─▶ XLEN │ XPENDING │ XINFO GROUPS ─▶ the number, or None where KEDA gets an error
"""

from __future__ import annotations

from typing import Any

import redis.asyncio
from redis import exceptions as redis_errors

from loadtest.keda import UNKNOWN_LAG, Measure, StreamTrigger

__all__ = ("read_trigger",)


async def read_trigger(client: redis.asyncio.Redis, trigger: StreamTrigger) -> float | None:
    """What KEDA would see of one trigger now; None: an error.

    Args:
        client: Connected with ``protocol=2``.
        trigger: What to read.
    """
    try:
        if trigger.measure is Measure.LENGTH:
            return float(await client.xlen(trigger.stream))
        if trigger.measure is Measure.PENDING:
            pending: Any = await client.xpending(trigger.stream, trigger.group)
            return float(pending["pending"])
        return _lag(await client.xinfo_groups(trigger.stream), trigger.group)
    except (redis_errors.RedisError, OSError):
        return None


def _lag(groups: list[dict[str, Any]], name: str) -> float | None:
    for group in groups:
        if group["name"] == name.encode():
            lag = group.get("lag")
            return UNKNOWN_LAG if lag is None else float(lag)
    return None
