"""The raw engine: OpenVINO in this process as it is served, from ready float32 images.

images ─▶ OpenVINO ─▶ masks
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from google.protobuf import json_format, text_format
from numpy.typing import NDArray
from tritonclient.grpc.model_config_pb2 import ModelConfig

from client.errors import ConfigurationError
from loadtest.loads import RAW
from loadtest.ways import Work
from preprocess.errors import ServingError
from preprocess.serving.configured import ServedNetwork, read_configuration
from preprocess.serving.network import single_settings, stream_settings
from preprocess.serving.runtime import openvino_core

__all__ = ("RawEngine", "served_network")


class RawEngine:
    """The yardstick: nothing but the network, at the settings that its service was given.

    One slice in flight goes through a model compiled for latency, which puts all cores on it;
    several go one by one through parallel streams, the cheapest way on a CPU.

    Args:
        served: The network and how it is compiled.
        images: float32 [slices, 1, rows, columns].
        slices_alone: How many slices a run with one in flight takes.
    """

    name = RAW

    def __init__(
        self, served: ServedNetwork, images: NDArray[np.float32], slices_alone: int
    ) -> None:
        core = openvino_core()
        model = core.read_model(served.path)
        model.reshape([1, *images.shape[1:]])
        single = core.compile_model(model, "CPU", single_settings(served))
        self._single = single.create_infer_request()
        self._streams = core.compile_model(model, "CPU", stream_settings(served))
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


def served_network(repository: Path, model: str) -> ServedNetwork:
    """What the cpu profile of a repository serves, as the server itself would read it.

    Args:
        repository: The model repository.
        model: Name of the model.

    Raises:
        ConfigurationError: There is no such model, or its configuration is not that of a network.
    """
    net = f"{model}_net"
    try:
        text = (repository / net / "configs" / "cpu.pbtxt").read_text(encoding="utf-8")
        config = json_format.MessageToDict(
            text_format.Parse(text, ModelConfig()), preserving_proto_field_name=True
        )
        versions = [each.name for each in (repository / net).iterdir() if each.name.isdecimal()]
        arguments = {
            "model_name": net,
            "model_config": json.dumps(config),
            "model_repository": str(repository / net),
            "model_version": max(versions, key=int, default=""),
        }
        return read_configuration(arguments)
    except (OSError, text_format.ParseError, ServingError, KeyError) as error:
        raise ConfigurationError(f"Expected {model} in {repository}: {error}") from error
