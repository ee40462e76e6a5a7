"""A local stack of its own for a benchmark: fresh home, free port, ended with it."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from client.settings import Settings, load_settings
from client.stack import control
from client.stack.supervisor import ServiceStatus
from loadtest.ensemble import triton_processes

__all__ = ("LocalStack", "local_stack")

HOST = "127.0.0.1"
STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class LocalStack:
    """A running stack.

    Attributes:
        settings: What it was started with.
        services: What runs.
        supervisor_pid: The process that runs them.
    """

    settings: Settings
    services: tuple[ServiceStatus, ...]
    supervisor_pid: int

    def processes(self) -> dict[str, int]:
        """Process ids by name: services, the models in Triton, the supervisor with its watchdog.

        The worker's isolated readers and writers are children of one process, which starts with
        the first study and counts for all of them.
        """
        pids = {service.name: service.pid for service in self.services}
        triton = triton_processes(pids.pop("triton"))
        others = {
            "readers, writers": _forkserver(pids["worker"]),
            "supervisor": self.supervisor_pid,
        }
        return pids | triton | others


@contextmanager
def local_stack(home: Path, repository: Path) -> Iterator[LocalStack]:
    """Starts a stack with new keys and nothing stored, and stops it at the end.

    Args:
        home: A folder that does not exist yet; its path must be short, since the queue's socket
            lies in it.
        repository: The model repository.

    Raises:
        ConfigurationError: A part is missing or did not start.
    """
    settings = load_settings(
        {
            "HOUNSFIELD_HOME": str(home),
            "HOUNSFIELD_GATEWAY": f"{HOST}:{_free_port()}",
            "HOUNSFIELD_MODEL_REPOSITORY": str(repository),
        }
    )
    with warnings.catch_warnings():
        # Starting lets go of the supervisor while it lives; it is waited for below.
        warnings.simplefilter("ignore", ResourceWarning)
        services = control.start(settings, lambda _: None, with_parent=True)
    supervisor = psutil.Process(psutil.Process(services[0].pid).ppid())
    try:
        yield LocalStack(settings, services, supervisor.pid)
    finally:
        control.stop(settings)
        supervisor.wait(STOP_TIMEOUT_S)


def _forkserver(worker_pid: int) -> int:
    return next(
        child.pid
        for child in psutil.Process(worker_pid).children()
        if any("forkserver" in argument for argument in child.cmdline())
    )


def _free_port() -> int:
    with socket.socket() as held:
        held.bind((HOST, 0))
        return int(held.getsockname()[1])
