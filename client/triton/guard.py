"""Guards the models of the Triton in the same pod, and tells the kubelet when it must restart it.

admin.key ─▶ Watchdog ─▶ unload, load, prove
                └─▶ health "triton": it answers, and each model lives or could be revived
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

from tritonclient.utils import InferenceServerException

from client.addresses import host_and_port
from client.crypto.privatefiles import read_private
from client.errors import ConfigurationError, Transient
from client.settings import PREFIX, Settings
from client.telemetry.health import serve_health
from client.triton.inference import connect
from client.triton.server import TritonSettings
from client.triton.watchdog import Watchdog

__all__ = ("TRITON", "Guard", "guard", "run_guard")

TRITON = "triton"
"""Name that the server's health is asked by; "" asks whether the guard itself is alive."""
_RELOAD_TIMEOUT_S = 60.0
"""Longer than on one machine: a pod may have a small part of a slow CPU."""


class Guard:
    """The watchdog of one server, and what it makes of the server's health.

    Args:
        triton: The server: address, repository and admin key.
        reload_timeout_s: How long reloading a model may take.
    """

    def __init__(self, triton: TritonSettings, reload_timeout_s: float = _RELOAD_TIMEOUT_S) -> None:
        self._watchdog = Watchdog(triton, reload_timeout_s=reload_timeout_s)
        self._url = triton.grpc_url

    async def check(self) -> None:
        """Return when no restart of the server is wanted.

        A server that is away wants none: it starts, or its container has ended, and the kubelet
        knows. On one that is there and does not answer this waits; its caller has a limit.

        Raises:
            Transient: A model could not be revived, and has not answered since.
        """
        if lost := self._watchdog.lost:
            raise Transient(f"Triton's {', '.join(sorted(lost))} died and could not be revived.")
        client = connect(self._url)
        try:
            with contextlib.suppress(InferenceServerException):
                await client.is_server_live()
        finally:
            await client.close()

    async def run(self) -> None:
        """Watch until it is cancelled.

        Raises:
            ConfigurationError: The repository has no model, or a description is wrong.
        """
        await self._watchdog.run()


async def guard(settings: Settings, admin_key: str, stop: asyncio.Event) -> None:
    """Guard the server of ``HOUNSFIELD_TRITON_URL`` until ``stop`` is set.

    Args:
        settings: Server, repository, and where health is answered.
        admin_key: Of that server.
        stop: Set it to end.

    Raises:
        ConfigurationError: A setting or a model description is wrong.
    """
    if not settings.triton_url:
        raise ConfigurationError(f"{PREFIX}TRITON_URL: expected host:port of the Triton to guard.")
    host, port = host_and_port(settings.triton_url)
    repository = Path(settings.model_repository)
    guarding = Guard(TritonSettings(repository, host=host, grpc_port=port, admin_key=admin_key))
    async with serve_health(settings.health_listen, guarding.check, name=TRITON):
        tasks = (asyncio.create_task(guarding.run()), asyncio.create_task(stop.wait()))
        try:
            # What ends the watching ends the process: the kubelet starts it anew.
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def run_guard(settings: Settings, admin_key: Path) -> None:
    """Guard until SIGTERM or SIGINT.

    Args:
        settings: As for ``guard``.
        admin_key: The file with the key, which only its owner may read.

    Raises:
        ConfigurationError: As for ``guard``, or the key cannot be read.
    """
    asyncio.run(_until_signal(settings, read_private(admin_key).decode()))


async def _until_signal(settings: Settings, admin_key: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await guard(settings, admin_key, stop)
