"""Looks now and then at what no call tells of: ledger, queue, store and certificates.

every 5 s:  ledger, queue ─▶ unfinished jobs, oldest, entries, up or not
every 60 s: store, certificates, jobs that ended

Each look has its own limit in time: what is away keeps no other look from being made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from client.crypto.certificates import ends_at
from client.errors import ClientError
from client.jobqueue.base import JobQueue
from client.jobs import TERMINAL_STATES, JobState
from client.objectstore.objects import ObjectStore
from client.telemetry.metrics import GatewayMetrics
from client.telemetry.told import WorkCount

__all__ = ("CountingLedger", "GatewayWatch", "WatchTimes")

_LOG = logging.getLogger(__name__)
_UNFINISHED = frozenset(JobState) - TERMINAL_STATES


class CountingLedger(Protocol):
    """What is needed of ``Ledger``."""

    async def work(self, states: Iterable[JobState]) -> Sequence[WorkCount]:
        """See ``Enquiries.work``."""
        ...


@dataclass(frozen=True, slots=True)
class WatchTimes:
    """How often it looks, in seconds, and how long a look may take."""

    often_s: float = 5.0
    seldom_s: float = 60.0
    timeout_s: float = 10.0


class GatewayWatch:
    """Keeps the gateway's gauges true.

    Args:
        metrics: Where it tells.
        ledger: Asked for jobs.
        queue: Asked for its length.
        store: Written to and read.
        certificates: Files of the certificates and revocation lists in use, by the name that the
            metric gives them; those that exist are told.
        times: How often.
    """

    def __init__(
        self,
        metrics: GatewayMetrics,
        ledger: CountingLedger,
        queue: JobQueue,
        store: ObjectStore,
        *,
        certificates: Mapping[str, Path],
        times: WatchTimes | None = None,
    ) -> None:
        self._metrics = metrics
        self._ledger = ledger
        self._queue = queue
        self._store = store
        self._certificates = dict(certificates)
        self._times = times or WatchTimes()

    async def run(self) -> None:
        """Look until cancelled."""
        often, seldom = self._times.often_s, self._times.seldom_s
        await asyncio.gather(
            self._repeated("ledger", self._look_at_work, often),
            self._repeated("queue", self._look_at_queue, often),
            self._repeated("store", self._store.check, seldom),
            self._repeated("", self._look_at_finished, seldom),
            self._repeated("", self._look_at_certificates, seldom),
        )

    async def _repeated(
        self, part: str, look: Callable[[], Awaitable[None]], interval_s: float
    ) -> None:
        """Look again and again; a look tells whether its part answers, "" for none."""
        while True:
            up = await self._made(look)
            if part:
                self._metrics.show_part(part, up=up)
            await asyncio.sleep(interval_s)

    async def _made(self, look: Callable[[], Awaitable[None]]) -> bool:
        try:
            async with asyncio.timeout(self._times.timeout_s):
                await look()
        except (ClientError, OSError, TimeoutError) as error:
            # Whoever needs the part says so; that a gauge is old is told by the part's own one.
            _LOG.debug("a look failed: %s", type(error).__name__)
            return False
        return True

    async def _look_at_work(self) -> None:
        self._metrics.show_unfinished(await self._ledger.work(_UNFINISHED), datetime.now(UTC))

    async def _look_at_finished(self) -> None:
        self._metrics.show_finished(await self._ledger.work(TERMINAL_STATES))

    async def _look_at_queue(self) -> None:
        self._metrics.show_queue(await self._queue.size())

    async def _look_at_certificates(self) -> None:
        for name, path in self._certificates.items():
            if path.exists():  # nobody's certificate was ever taken back, perhaps
                pem = await asyncio.to_thread(path.read_bytes)
                self._metrics.show_certificate(name, ends_at(pem))
