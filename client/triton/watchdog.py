"""Revives models whose process died: Triton neither restarts them nor says that they are gone.

every second: has it answered requests since? ─no─▶ synthetic inference ─▶ INTERNAL or NOT_FOUND
                        └─yes─▶ it lives                                          ▼
                                                                       unload, load, prove
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, NamedTuple, Self

from tritonclient.utils import InferenceServerException

from client.errors import ClientError
from client.triton.inference import connect
from client.triton.probe import Probe
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
        interval_s: Pause between two looks at a model. One that answered requests meanwhile is
            left alone; one without work is probed at every second look. So a model that died is
            found after at most two pauses.
        probe_timeout_s: How long one probe may take.
        reload_timeout_s: How long reloading may take. A server whose model died while it was being
            loaded waits for it for ever.
    """

    def __init__(
        self,
        settings: TritonSettings,
        on_event: Callable[[WatchdogEvent], None] = lambda event: None,
        interval_s: float = 1.0,
        probe_timeout_s: float = 20.0,
        reload_timeout_s: float = 20.0,
    ) -> None:
        self._settings = settings
        self._on_event = on_event
        self._interval_s = interval_s
        self._probe_timeout_s = probe_timeout_s
        self._reload_timeout_s = reload_timeout_s
        self._lost: set[str] = set()

    @property
    def lost(self) -> frozenset[str]:
        """Models that could not be revived, and have not answered since: a new server may help."""
        return frozenset(self._lost)

    async def run(self) -> None:
        """Watches until it is cancelled; descriptions are read again when one has changed."""
        while True:
            stamps = self._stamps()
            async with contextlib.AsyncExitStack() as stack:
                wards = [
                    await stack.enter_async_context(self._ward(spec))
                    for spec in self._settings.specs
                ]
                self._lost &= {ward.spec.name for ward in wards}
                while self._stamps() == stamps:
                    for ward in wards:
                        if await ward.wants_a_probe() or ward.spec.name in self._lost:
                            await self._check(ward)
                    await asyncio.sleep(self._interval_s)

    async def check(self, spec: ModelSpec) -> None:
        """Probes one model, and revives it if it is dead."""
        async with self._ward(spec) as ward:
            await self._check(ward)

    def _ward(self, spec: ModelSpec) -> _Ward:
        return _Ward(self._settings, spec, self._probe_timeout_s)

    def _stamps(self) -> dict[str, tuple[int, int]]:
        """What tells of a changed description, without reading any."""
        found = {}
        for path in self._settings.repository.glob("*/model.yaml"):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                found[path.parent.name] = (stat.st_mtime_ns, stat.st_ino)
        return found

    async def _check(self, ward: _Ward) -> None:
        spec = ward.spec
        status = await ward.probe()
        if not status:
            self._lost.discard(spec.name)
        if status not in DEAD:
            return
        self._tell(spec, ModelEvent.DEAD, status)
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._reload_timeout_s):
                await self._reload(spec)
            status = await ward.probe()
        except InferenceServerException as error:
            status = status_of(error)
        except TimeoutError:
            status = STUCK
        kind = ModelEvent.STILL_DEAD if status else ModelEvent.REVIVED
        (self._lost.add if status else self._lost.discard)(spec.name)
        self._tell(spec, kind, status, time.monotonic() - began)

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


class _Counts(NamedTuple):
    """Requests that a model answered, and that it failed, since it was loaded."""

    answered: int
    failed: int


class _Ward:
    """One model under watch, with the connections to it.

    An answer to a request proves as much as an answer to a probe, and costs nothing; so the server
    is asked how many there were. After a failure, and after the first look without any answer,
    nothing is proved.
    """

    def __init__(self, settings: TritonSettings, spec: ModelSpec, probe_timeout_s: float) -> None:
        self.spec = spec
        self._headers = admin_headers(settings.admin_key)
        self._url = settings.grpc_url
        self._timeout_s = probe_timeout_s
        self._probe = Probe(settings.grpc_url, spec, probe_timeout_s)
        self._client: Any = None
        self._seen: _Counts | None = None
        self._quiet_looks = 0

    async def __aenter__(self) -> Self:
        await self._probe.__aenter__()
        self._client = connect(self._url)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.close()
        await self._probe.__aexit__(kind, error, trace)

    async def wants_a_probe(self) -> bool:
        """Looks whether nothing has proved for too long that the model works."""
        before, self._seen = self._seen, await self._counts()
        if before is not None and self._seen is not None:
            if self._seen.failed != before.failed:
                return True
            if self._seen.answered > before.answered:
                self._quiet_looks = 0
                return False
        self._quiet_looks += 1
        return self._quiet_looks % 2 == 1

    async def probe(self) -> str:
        """The status with which the probe failed, or ""."""
        try:
            await self._probe.send()
        except ClientError as error:
            return status_of(error.__cause__ or error)
        finally:
            self._seen = await self._counts()  # the probe's own answer is no work
        return ""

    async def _counts(self) -> _Counts | None:
        """None when the server cannot say."""
        try:
            told = await self._client.get_inference_statistics(
                self.spec.name, headers=self._headers, client_timeout=self._timeout_s
            )
        except InferenceServerException:
            return None
        return _Counts(
            answered=sum(one.inference_stats.success.count for one in told.model_stats),
            failed=sum(one.inference_stats.fail.count for one in told.model_stats),
        )
