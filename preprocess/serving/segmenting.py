"""Second step of a model on the CPU: the exported network by OpenVINO in Triton's Python backend.

image ─▶ U-Net with argmax ─▶ mask
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from preprocess.serving.tensors import quiet_capsules, read, respond

__all__ = ("Network", "SegmentingModel")


class Network:
    """An ONNX segmentation network whose answer for a slice does not depend on its batch.

    Every slice is an inference of its own: several go through parallel streams, which costs less
    CPU time than one large batch, and a single slice through a model compiled for latency.
    Precision is pinned to float32, since OpenVINO's own choice on many CPUs is bfloat16.

    Args:
        path: The ONNX file; one input float32 [N, 1, rows, columns], one output uint8
            [N, rows, columns].
    """

    def __init__(self, path: Path) -> None:
        core = ov.Core()
        model = core.read_model(path)
        shape = model.input(0).partial_shape
        model.reshape([1, *(shape[axis].get_length() for axis in range(1, 4))])
        self._single = core.compile_model(model, "CPU", _settings("LATENCY")).create_infer_request()
        streams = core.compile_model(model, "CPU", _settings("THROUGHPUT"))
        best = int(streams.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._queue = ov.AsyncInferQueue(streams, 2 * best)
        self._queue.set_callback(_keep_mask)
        self._mask_shape = tuple(streams.output(0).shape[1:])

    def segment(self, images: list[NDArray[np.float32]]) -> NDArray[np.uint8]:
        """Segments slices.

        Args:
            images: Each float32 [1, rows, columns].

        Returns:
            uint8 [slices, rows, columns].
        """
        masks = np.empty((len(images), *self._mask_shape), dtype=np.uint8)
        if len(images) == 1:
            masks[0] = self._single.infer({0: images[0][None]}, share_inputs=True)[0][0]
            return masks
        for image, mask in zip(images, masks, strict=True):
            self._queue.start_async({0: image[None]}, userdata=mask, share_inputs=True)
        self._queue.wait_all()
        return masks


class SegmentingModel:
    """Serves ``<model>_net`` from the ``model.onnx`` in its version folder."""

    def initialize(self, args: dict[str, str]) -> None:
        """Compiles the network and warms both ways of running it."""
        quiet_capsules()
        folder = Path(args["model_repository"]) / args["model_version"]
        self._network = Network(folder / "model.onnx")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Segments the slices of all requests side by side."""
        batches = [read(request, "image") for request in requests]
        masks = self._network.segment([image for batch in batches for image in batch])
        ends = np.cumsum([len(batch) for batch in batches])[:-1]
        return [respond("mask", part) for part in np.split(masks, ends)]


def _settings(hint: str) -> dict[str, str]:
    return {"PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": "f32"}


def _keep_mask(request: Any, mask: NDArray[np.uint8]) -> None:
    mask[...] = request.get_output_tensor(0).data[0]
