"""The raw engine: OpenVINO in this process at its best settings, from ready float32 images.

images ─▶ OpenVINO ─▶ masks
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from loadtest.ways import Work

__all__ = ("RawEngine",)

FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}


class RawEngine:
    """The yardstick: nothing but the network.

    One slice in flight goes through a model compiled for latency, which puts all cores on it;
    several go one by one through parallel streams, the cheapest way on a CPU.

    Args:
        network: The ONNX file.
        images: float32 [slices, 1, rows, columns].
        slices_alone: How many slices a run with one in flight takes.
    """

    name = "raw engine"

    def __init__(self, network: Path, images: NDArray[np.float32], slices_alone: int) -> None:
        core = ov.Core()
        model = core.read_model(network)
        model.reshape([1, *images.shape[1:]])
        latency = {"PERFORMANCE_HINT": "LATENCY", **FLOAT32}
        self._single = core.compile_model(model, "CPU", latency).create_infer_request()
        self._streams = core.compile_model(
            model, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT", **FLOAT32}
        )
        self._images = images
        self._slices_alone = slices_alone
        self.masks = np.empty((len(images), *images.shape[2:]), dtype=np.uint8)
        """uint8 [slices, rows, columns] of the runs so far."""

    def processes(self) -> Mapping[str, int]:
        """Only this one."""
        return {"client": os.getpid()}

    async def run(self, in_flight: int) -> Work:
        """See ``Way.run``."""
        return await asyncio.to_thread(
            self._one_by_one if in_flight == 1 else self._many, in_flight
        )

    def _one_by_one(self, _: int) -> Work:
        latencies = []
        for image, mask in self._first(self._slices_alone):
            began = time.perf_counter()
            mask[...] = self._single.infer({0: image[None]}, share_inputs=True)[0][0]
            latencies.append(time.perf_counter() - began)
        return Work(len(latencies), tuple(latencies))

    def _many(self, in_flight: int) -> Work:
        latencies: list[float] = []

        def keep(request: Any, userdata: tuple[float, NDArray[np.uint8]]) -> None:
            began, mask = userdata
            mask[...] = request.get_output_tensor(0).data[0]
            latencies.append(time.perf_counter() - began)

        queue = ov.AsyncInferQueue(self._streams, in_flight)
        queue.set_callback(keep)
        for image, mask in self._first(len(self._images)):
            queue.start_async({0: image[None]}, (time.perf_counter(), mask), share_inputs=True)
        queue.wait_all()
        return Work(len(latencies), tuple(latencies))

    def _first(self, count: int) -> list[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
        return list(zip(self._images[:count], self.masks[:count], strict=True))
