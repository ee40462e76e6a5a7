"""Revives models whose process died: Triton neither restarts them nor says that they are gone.

every few seconds: synthetic inference ─▶ INTERNAL or NOT_FOUND ─▶ unload, load, prove
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from tritonclient.utils import InferenceServerException

from client.errors import ClientError
from client.triton.inference import connect
from client.triton.probe import probe
from client.triton.server import TritonSettings, admin_headers
from client.triton.statuses import status_of
from preprocess.spec import ModelSpec

__all__ = ("STUCK", "ModelEvent", "Watchdog", "WatchdogEvent")

LOGGER = logging.getLogger(__name__)

DEAD = frozenset(("INTERNAL", "NOT_FOUND"))
"""Statuses of a model whose process died, or that was left unloaded. Others are not ours to mend:
a server that is away is its supervisor's, one that is slow has work to do."""
STUCK = "DEADLINE_EXCEEDED"
"""Status of a model whose reloading took too long: only a new server helps."""


class ModelEvent(StrEnum):
    """What happened to a model."""

    DEAD = "dead"
    REVIVED = "revived"
    STILL_DEAD = "still_dead"


@dataclass(frozen=True)
class WatchdogEvent:
    """One thing the watchdog saw or did.

    Attributes:
        model: Name of the ensemble.
        kind: What happened.
        status: gRPC status of the probe that failed, "" when revived.
        seconds: How long reviving took, 0 before.
    """

    model: str
    kind: ModelEvent
    status: str
    seconds: float


class Watchdog:
    """Watches the models of one Triton server.

    Args:
        settings: The server, with ports and models.
        on_event: Called with every event, after it is logged.
        interval_s: Pause between two rounds of probes.
        probe_timeout_s: How long one probe may take.
        reload_timeout_s: How long reloading may take. A server whose model died while it was being
            loaded waits for it for ever.
    """

    def __init__(
        self,
        settings: TritonSettings,
        on_event: Callable[[WatchdogEvent], None] = lambda event: None,
        interval_s: float = 2.0,
        probe_timeout_s: float = 20.0,
        reload_timeout_s: float = 20.0,
    ) -> None:
        self._settings = settings
        self._on_event = on_event
        self._interval_s = interval_s
        self._probe_timeout_s = probe_timeout_s
        self._reload_timeout_s = reload_timeout_s

    async def run(self) -> None:
        """Probes until it is cancelled."""
        while True:
            for spec in self._settings.specs:
                await self.check(spec)
            await asyncio.sleep(self._interval_s)

    async def check(self, spec: ModelSpec) -> None:
        """Probes one model, and revives it if it is dead."""
        status = await self._probe(spec)
        if status not in DEAD:
            return
        self._tell(spec, ModelEvent.DEAD, status)
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._reload_timeout_s):
                await self._reload(spec)
            status = await self._probe(spec)
        except InferenceServerException as error:
            status = status_of(error)
        except TimeoutError:
            status = STUCK
        kind = ModelEvent.STILL_DEAD if status else ModelEvent.REVIVED
        self._tell(spec, kind, status, time.monotonic() - began)

    async def _probe(self, spec: ModelSpec) -> str:
        """The status with which the probe failed, or ""."""
        try:
            await probe(self._settings.grpc_url, spec, self._probe_timeout_s)
        except ClientError as error:
            return status_of(error.__cause__ or error)
        return ""

    async def _reload(self, spec: ModelSpec) -> None:
        """Unloads the ensemble with its steps, waits until they are gone, and loads all again."""
        headers = admin_headers(self._settings.admin_key)
        client = connect(self._settings.grpc_url)
        try:
            await client.unload_model(spec.name, headers=headers, unload_dependents=True)
            parts = (spec.name, f"{spec.name}_prep", f"{spec.name}_net")
            give_up = time.monotonic() + self._probe_timeout_s
            while any([await client.is_model_ready(part) for part in parts]):
                if time.monotonic() > give_up:
                    break
                await asyncio.sleep(0.1)
            await client.load_model(spec.name, headers=headers)
        finally:
            await client.close()

    def _tell(self, spec: ModelSpec, kind: ModelEvent, status: str, seconds: float = 0.0) -> None:
        event = WatchdogEvent(spec.name, kind, status, round(seconds, 3))
        level = logging.INFO if kind is ModelEvent.REVIVED else logging.ERROR
        LOGGER.log(level, "model=%s %s status=%s seconds=%s", spec.name, kind, status, seconds)
        self._on_event(event)
