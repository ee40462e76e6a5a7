"""A test stand: one real stack that is hit on purpose, and may be started again as a whole.

Stand ──▶ supervisor ──▶ queue, triton (+ stubs), gateway, worker
  └────▶ PostgreSQL, S3 server, further workers
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from client.addresses import free_ports
from client.crypto.keydirectory import create_key_directory
from client.faultpoints import VARIABLE
from client.process import tied_command
from client.settings import Settings
from client.stack import control
from tests.faults.surroundings import Surroundings
from tests.local_stack import LocalStack
from tests.networks import write_network

__all__ = ("QUICK", "Stand", "quick_repository", "stand")

ROOT = Path(__file__).parents[2]
_REPOSITORY = ROOT / "model_repository"
_NETWORK = Path("brain_mr_net", "1", "model.onnx")
_STUB = "triton_python_backend_stub"
QUICK = {"lease_s": 3.0, "reconcile_s": 1.0}
"""A worker that vanished is missed after 3 s instead of 30, as the runs are short; all else is as
in service, the number of tries too."""


def quick_repository(folder: Path) -> Path:
    """Copy the model repository with a small random network: quick to load and to run."""
    repository = folder / "model_repository"
    shutil.copytree(_REPOSITORY, repository, ignore=shutil.ignore_patterns("*.onnx", "__pycache__"))
    write_network(repository / _NETWORK)
    return repository


class Stand(LocalStack):
    """The stack under test.

    Args:
        settings: Of the stack.
        faults: Folder in which steps are armed.
        around: What runs beside it.
    """

    def __init__(self, settings: Settings, faults: Path, around: Surroundings) -> None:
        super().__init__(settings)
        self.faults = faults
        self.around = around
        self._armed = {VARIABLE: str(faults)}
        self._supervisor: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start everything; return when all of it is ready."""
        with _variables(self._armed):
            self._supervisor = control.launch(self.settings, with_parent=True)
        await asyncio.to_thread(control.until_ready, self.settings, self._supervisor)

    async def stop(self) -> None:
        """Stop everything in order."""
        await asyncio.to_thread(control.stop, self.settings)
        self._forget()

    def kill_all(self) -> int:
        """Kill every process of the stack at once, SIGKILL; return how many."""
        processes = self.processes()
        for process in processes:  # none may see another one's end and act on it
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=10)
        self._forget()
        return len(processes)

    def service_pid(self, service: str) -> int | None:
        """Return a service's process id now, ready or not; None while it has none."""
        for status in control.status(self.settings):
            if status.name == service and status.pid:
                return status.pid
        return None

    def stub_pids(self) -> list[int]:
        """Return the processes of Triton's Python models."""
        server = self.service_pid("triton")
        found = []
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(server).children(recursive=True) if server else ():
                with contextlib.suppress(psutil.Error):
                    if child.name().startswith(_STUB[:15]):
                        found.append(child.pid)
        return found

    @contextlib.contextmanager
    def second_worker(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run one more worker of the same stack for a while."""
        triton = next(s.address for s in control.status(self.settings) if s.name == "triton")
        queue = next(s.address for s in control.status(self.settings) if s.name == "queue")
        whole = replace(self.settings, triton_url=triton, queue_url=queue)
        with (control.log_directory(self.settings) / "worker-2.log").open("ab") as log:
            worker = subprocess.Popen(
                tied_command((sys.executable, "-m", "client.worker")),
                env={**os.environ, **self._armed, **whole.environment()},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield worker
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(worker.pid).resume()
            worker.terminate()
            worker.wait(30)

    def _forget(self) -> None:
        if self._supervisor is not None:
            self._supervisor.wait(60)
            self._supervisor = None


@contextlib.asynccontextmanager
async def stand(
    folder: Path, around: Surroundings | None = None, host: str = "127.0.0.1", **changes: Any
) -> AsyncIterator[Stand]:
    """Run a stack in ``folder``, whose path must be short; everything stays there for a look.

    Args:
        folder: Home of the stack, its models, and the armed steps.
        around: What it leans on; None means the embedded parts alone.
        host: Address that the gateway listens on and has a certificate for.
        changes: Settings, by field name.
    """
    around = around or Surroundings(None, None)
    faults = folder / "faults"
    faults.mkdir()
    gateway = f"{host}:{free_ports(1, host)[0]}"
    chosen: dict[str, Any] = {
        "home": str(folder / "s"),
        "gateway": gateway,
        "model_repository": str(await asyncio.to_thread(quick_repository, folder)),
        **QUICK,
        **around.settings,
        **changes,
    }
    settings = Settings(**chosen).resolved()
    create_key_directory(Path(settings.keys), settings.tenant, (host,))
    running = Stand(settings, faults, around)
    with _variables(around.environment):
        try:
            await running.start()
            yield running
        finally:
            await running.stop()


@contextlib.contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
