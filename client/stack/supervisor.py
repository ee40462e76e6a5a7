"""Starts the parts of the local stack in order, restarts what dies, stops all in reverse order.

    supervisor ──▶ valkey ──▶ triton ──▶ gateway ──▶ worker
         └──────▶ HOME/run/stack.json (what runs, where, since when)

Every child dies with the supervisor, by the kernel's own hand, also after kill -9.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from client.errors import ConfigurationError
from client.process import tied_command

__all__ = ("ServiceSpec", "ServiceStatus", "Supervisor", "lock_is_held", "read_status")

_PROBE_INTERVAL_S = 0.1
_BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
_STEADY_S = 30.0


@dataclass(frozen=True)
class ServiceSpec:
    """One child process.

    Attributes:
        name: Short name, also of its log file.
        argv: Program and arguments.
        env: Its whole environment.
        ready: Returns True once the service answers; it may raise while it does not.
        doomed: Returns True when the starting process of this id will never be ready.
        address: Where it listens, for people.
        start_timeout_s: Seconds until it must be ready.
        grace_s: Seconds between SIGTERM and SIGKILL.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    ready: Callable[[], Awaitable[bool]]
    doomed: Callable[[int], bool] = lambda _: False
    address: str = ""
    start_timeout_s: float = 60.0
    grace_s: float = 15.0


@dataclass
class ServiceStatus:
    """What is known of one child; times are seconds since the epoch."""

    name: str
    state: str = "starting"
    pid: int = 0
    address: str = ""
    restarts: int = 0
    since: float = field(default_factory=time.time)
    start_s: float = 0.0


class Supervisor:
    """Runs services until it is told to stop.

    Args:
        services: In start order; each is ready before the next one starts.
        run_directory: Holds ``stack.json`` and the lock that says "a supervisor lives".
        log_directory: One ``NAME.log`` per service.
    """

    def __init__(
        self, services: Sequence[ServiceSpec], run_directory: Path, log_directory: Path
    ) -> None:
        self._services = tuple(services)
        self._run = run_directory
        self._logs = log_directory
        self._status = {s.name: ServiceStatus(s.name, address=s.address) for s in services}
        self._children: dict[str, asyncio.subprocess.Process] = {}
        self._ready = {s.name: asyncio.Event() for s in services}
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Start everything, keep it alive, and return after SIGTERM or SIGINT stopped it.

        Raises:
            ConfigurationError: Another supervisor holds the run directory, or a service did not
                become ready in time (its log's last lines are in the message).
        """
        loop = asyncio.get_running_loop()
        with _hold_lock(self._run):
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stopping.set)
            try:
                async with self._keepers():
                    await self._stopping.wait()
            finally:
                await self._stop_all()
                (self._run / "stack.json").unlink(missing_ok=True)

    async def until_ready(self, name: str) -> None:
        """Return once a service is ready for the first time."""
        await self._ready[name].wait()

    async def until_stopping(self) -> None:
        """Return once it was told to stop, or had to."""
        await self._stopping.wait()

    def kill(self, name: str) -> None:
        """Kill a service that no longer serves; it is started again like any that died."""
        _kill_group(self._children[name].pid, signal.SIGKILL)

    @contextlib.asynccontextmanager
    async def _keepers(self) -> AsyncIterator[None]:
        keepers: list[asyncio.Task[None]] = []
        try:
            for service in self._services:
                child = await self._start(service)
                keepers.append(asyncio.create_task(self._keep(service, child)))
                if self._stopping.is_set():
                    break
            yield
        finally:
            self._stopping.set()
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)

    async def _start(self, service: ServiceSpec) -> asyncio.subprocess.Process:
        began = time.monotonic()
        self._logs.mkdir(parents=True, exist_ok=True)
        with (self._logs / f"{service.name}.log").open("ab") as log:
            child = await asyncio.create_subprocess_exec(
                *tied_command(service.argv),
                env=dict(service.env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._children[service.name] = child
        self._note(service.name, state="starting", pid=child.pid, since=time.time())
        await self._until_ready(service, child, began + service.start_timeout_s)
        self._note(service.name, state="ready", start_s=round(time.monotonic() - began, 3))
        self._ready[service.name].set()
        return child

    async def _until_ready(
        self, service: ServiceSpec, child: asyncio.subprocess.Process, deadline: float
    ) -> None:
        while not self._stopping.is_set():
            if child.returncode is not None or time.monotonic() > deadline:
                why = "took too long to start" if child.returncode is None else "ended at once"
                raise ConfigurationError(
                    f"{service.name} {why}; the end of its log:\n{self._log_tail(service.name)}"
                )
            if service.doomed(child.pid):
                raise ConfigurationError(f"{service.name} lost a part of itself while it started.")
            with contextlib.suppress(Exception):
                if await service.ready():
                    return
            await asyncio.sleep(_PROBE_INTERVAL_S)

    async def _keep(self, service: ServiceSpec, child: asyncio.subprocess.Process) -> None:
        failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            await child.wait()
            if self._stopping.is_set():
                return
            failures = 0 if time.monotonic() - began > _STEADY_S else failures + 1
            status = self._status[service.name]
            self._note(service.name, state="restarting", pid=0, restarts=status.restarts + 1)
            await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S)) - 1] if failures else 0)
            with contextlib.suppress(ConfigurationError, OSError):
                child = await self._start(service)
                continue
            child = self._children[service.name]
            _kill_group(child.pid, signal.SIGKILL)

    async def _stop_all(self) -> None:
        for service in reversed(self._services):
            child = self._children.get(service.name)
            if child is None:
                continue
            self._note(service.name, state="stopping")
            if child.returncode is None:
                child.terminate()
                try:
                    await asyncio.wait_for(child.wait(), service.grace_s)
                except TimeoutError:
                    self._note(service.name, state="killed")
            _kill_group(child.pid, signal.SIGKILL)
            await child.wait()
            self._note(service.name, state="stopped", pid=0)

    def _note(self, name: str, **changes: object) -> None:
        for key, value in changes.items():
            setattr(self._status[name], key, value)
        text = json.dumps(
            {"pid": os.getpid(), "services": [asdict(s) for s in self._status.values()]}
        )
        fresh = self._run / "stack.json.new"
        with contextlib.suppress(OSError):  # a full disk must not end what keeps all else alive
            fresh.write_text(text)
            fresh.replace(self._run / "stack.json")

    def _log_tail(self, name: str, lines: int = 15) -> str:
        text = (self._logs / f"{name}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])


def _kill_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


@contextlib.contextmanager
def _hold_lock(run_directory: Path) -> Iterator[None]:
    run_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (run_directory / "supervisor.lock").open("a+") as handle:
        if not _try_lock(handle):
            raise ConfigurationError(
                f"A stack is already running in {run_directory.parent}; stop it with "
                "`hounsfield down` or choose another HOUNSFIELD_HOME."
            )
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def _try_lock(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_is_held(run_directory: Path) -> bool:
    """Return whether a living supervisor owns this run directory."""
    path = run_directory / "supervisor.lock"
    if not path.exists():
        return False
    with path.open("r+") as handle:
        return not _try_lock(handle)


def read_status(run_directory: Path) -> tuple[ServiceStatus, ...]:
    """Return what the living supervisor says of its services; empty when none lives."""
    path = run_directory / "stack.json"
    if not lock_is_held(run_directory) or not path.exists():
        return ()
    return tuple(ServiceStatus(**entry) for entry in json.loads(path.read_text())["services"])
