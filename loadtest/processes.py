"""The processes of a Triton server and of a whole local stack, by names that people know."""

from __future__ import annotations

import psutil

from client.settings import Settings
from client.stack import control

__all__ = ("stack_processes", "triton_processes")


def triton_processes(server_pid: int) -> dict[str, int]:
    """The server and the processes of its Python models, by the models' names."""
    found = {"triton server": server_pid}
    for child in psutil.Process(server_pid).children(recursive=True):
        found |= {
            path.split("/")[-3]: child.pid
            for path in child.cmdline()[1:2]
            if path.endswith("/model.py")
        }
    return found


def stack_processes(settings: Settings) -> dict[str, int]:
    """Services, the models in Triton, and the supervisor with its watchdog.

    The worker's isolated readers and writers are children of one process, which starts with the
    first study and counts for all of them; other children of the worker count as the worker.

    Args:
        settings: Of a running stack that has processed a study.
    """
    pids = {service.name: service.pid for service in control.status(settings)}
    supervisor = psutil.Process(pids["gateway"]).ppid()
    triton = triton_processes(pids.pop("triton"))
    readers = dict(zip(["readers, writers"], _forkservers(pids["worker"]), strict=False))
    return {**pids, **triton, **readers, "supervisor": supervisor}


def _forkservers(worker_pid: int) -> list[int]:
    return [
        child.pid
        for child in psutil.Process(worker_pid).children()
        if any("forkserver" in argument for argument in child.cmdline())
    ]
