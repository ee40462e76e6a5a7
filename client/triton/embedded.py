"""Runs a Triton server as a child of this process, from start to proof of life to end."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from tritonclient.utils import InferenceServerException

from client.errors import ClientError, ConfigurationError
from client.triton.inference import connect
from client.triton.installation import clear_shared_memory
from client.triton.probe import probe
from client.triton.server import TritonSettings, admin_headers, server_command

__all__ = ("EmbeddedTriton", "is_ready", "lost_a_model")

POLL_S = 0.1
LOG_TAIL_BYTES = 4000
_STUB = "triton_python_backend_stub"[:15]
"""Name of a Python model's process, as the kernel keeps it (proc(5), comm)."""


class EmbeddedTriton:
    """A Triton server on loopback; an async context manager that owns the process.

    Inside the context every model has answered a synthetic inference. However this process ends,
    also by kill -9, the server ends with it.

    Args:
        settings: How to run it.
        log_path: Where its output goes.
        start_timeout_s: How long the models may take to answer.
    """

    def __init__(
        self, settings: TritonSettings, log_path: Path, start_timeout_s: float = 60.0
    ) -> None:
        self._settings = settings
        self._log_path = log_path
        self._start_timeout_s = start_timeout_s
        self._process: asyncio.subprocess.Process | None = None

    @property
    def settings(self) -> TritonSettings:
        """The settings; inside the context with ports and models."""
        return self._settings

    @property
    def url(self) -> str:
        """host:port of the gRPC service."""
        return self._settings.grpc_url

    @property
    def pid(self) -> int:
        """Process id of the server; 0 outside the context."""
        return self._process.pid if self._process else 0

    async def __aenter__(self) -> Self:
        self._settings = self._settings.resolved()
        command = server_command(self._settings)
        with self._log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command.argv, env=command.env, stdout=log, stderr=log, start_new_session=True
            )
        try:
            await self._until_ready(self._process)
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stop()

    async def _until_ready(self, process: asyncio.subprocess.Process) -> None:
        try:
            async with asyncio.timeout(self._start_timeout_s):
                while process.returncode is None:
                    if await is_ready(self._settings):
                        return
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            pass
        ended = process.returncode
        what = "did not answer in time" if ended is None else f"ended with status {ended}"
        raise ConfigurationError(f"Triton {what}. The end of its log:\n{self._log_tail()}")

    async def _stop(self) -> None:
        """SIGTERM, then SIGKILL after the time for requests in flight and a little more."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), self._settings.exit_timeout_s + 5)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        self._process = None
        clear_shared_memory()

    def _log_tail(self) -> str:
        return self._log_path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")


async def is_ready(settings: TritonSettings) -> bool:
    """Whether the server with this admin key answers, and every model does an inference.

    The key tells our server from another one that took the port first.

    Args:
        settings: With ports and models.
    """
    client = connect(settings.grpc_url)
    try:
        await client.get_model_repository_index(
            headers=admin_headers(settings.admin_key), client_timeout=2
        )
        for spec in settings.specs:
            await probe(settings.grpc_url, spec)
    except (InferenceServerException, ClientError):
        return False
    finally:
        await client.close()
    return True


def lost_a_model(pid: int) -> bool:
    """Whether the process of a Python model died under a starting server, which waits in vain."""
    try:
        return any(
            child.status() == psutil.STATUS_ZOMBIE and child.name() == _STUB
            for child in psutil.Process(pid).children()
        )
    except psutil.NoSuchProcess:
        return False
