"""What GPU there is, and the ensemble on it where a server with the gpu profile is named."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from client.triton.inference import TritonModel
from loadtest.ensemble import Ensemble
from loadtest.loads import GPU
from loadtest.material import Material
from loadtest.ways import Work

__all__ = ("ABSENT", "GpuEnsemble", "find_gpus", "gpu_note")

ABSENT = "none found: every figure is of the CPU"
QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
TIMEOUT_S = 20


class GpuEnsemble:
    """The ensemble on a server that somebody else started; only this process can be watched.

    Args:
        model: An open connection.
        material: What to segment.
        slices_alone: How many slices a run with one in flight takes.
    """

    name = GPU

    def __init__(self, model: TritonModel, material: Material, slices_alone: int) -> None:
        self._ensemble = Ensemble(model, os.getpid(), material, slices_alone)

    @property
    def masks(self) -> NDArray[np.uint8]:
        """uint8 [slices, rows, columns] of the runs so far, on the canvas."""
        return self._ensemble.masks

    def processes(self) -> Mapping[str, int]:
        """Only this one."""
        return {"client": os.getpid()}

    async def run(self, in_flight: int) -> Work:
        """See ``Way.run``."""
        return await self._ensemble.run(in_flight)


def find_gpus() -> tuple[str, ...]:
    """Name, memory and driver of each NVIDIA GPU that the driver shows."""
    if shutil.which(QUERY[0]) is None:
        return ()
    try:
        done = subprocess.run(QUERY, capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())


def gpu_note(found: tuple[str, ...], url: str) -> str:
    """What the report says about the GPU.

    Args:
        found: As ``find_gpus`` returns it.
        url: Server with the gpu profile; "" where none was named.
    """
    if url:
        return f"ensemble on the gpu profile at {url}; GPUs of this machine: {_listed(found)}"
    if not found:
        return ABSENT
    return (
        f"{_listed(found)}, not used: the gpu profile runs in NVIDIA's Triton container; name its "
        "gRPC address with --gpu-triton"
    )


def _listed(found: tuple[str, ...]) -> str:
    return "; ".join(found) or "none"
