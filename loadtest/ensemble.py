"""The ensemble: int16 slices to our Triton server and masks back, as a worker does it.

slices ─shared memory─▶ Triton [ preprocess ▶ U-Net ] ─shared memory─▶ masks
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Mapping

import numpy as np

from client.triton.inference import TritonModel
from loadtest.material import Material
from loadtest.processes import triton_processes
from loadtest.ways import Work

__all__ = ("Ensemble",)


class Ensemble:
    """As many callers as slices in flight, each with one slice at a time.

    Args:
        model: An open connection.
        server_pid: The Triton server.
        material: What to segment.
        slices_alone: How many slices a run with one in flight takes.
    """

    name = "ensemble"

    def __init__(
        self, model: TritonModel, server_pid: int, material: Material, slices_alone: int
    ) -> None:
        self._model = model
        self._server_pid = server_pid
        self._material = material
        self._slices_alone = slices_alone
        self.masks = np.empty((material.slices, *material.images.shape[2:]), dtype=np.uint8)
        """uint8 [slices, rows, columns] of the runs so far, on the canvas."""

    def processes(self) -> Mapping[str, int]:
        """This process, the server and its models."""
        return {"client": os.getpid(), **triton_processes(self._server_pid)}

    async def run(self, in_flight: int) -> Work:
        """See ``Way.run``."""
        count = self._slices_alone if in_flight == 1 else self._material.slices
        todo = iter(range(count))
        latencies: list[float] = []
        callers = (self._call(todo, latencies) for _ in range(min(in_flight, count)))
        await asyncio.gather(*callers)
        return Work(count, tuple(latencies))

    async def _call(self, todo: Iterator[int], latencies: list[float]) -> None:
        stored = self._material.series.stored
        for index in todo:
            began = time.perf_counter()
            masks = await self._model.segment(self._material.plan, stored[index : index + 1])
            latencies.append(time.perf_counter() - began)
            self.masks[index] = masks[0]
