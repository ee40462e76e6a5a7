"""The work that every peer serves: one slice and its plan in, its mask out.

body ─▶ unpack ─▶ resize ▶ clamp ▶ pad ─▶ OpenVINO ─▶ mask

Imported by every server, so it needs nothing but NumPy, SciPy and OpenVINO.
"""

from __future__ import annotations

import asyncio
import functools
import os
import struct
from collections import deque
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from scipy.sparse import csr_array

__all__ = (
    "HINTS",
    "NETWORK",
    "PORT",
    "PRECISION",
    "AsyncSegmenter",
    "Segmenter",
    "Slice",
    "infer",
    "network_image",
    "pack",
    "port",
    "unpack",
)

NETWORK, PRECISION, PORT = "PEER_NETWORK", "PEER_PRECISION", "PEER_PORT"
"""Environment variables of a server: path of the ONNX or XML file, a key of ``HINTS``, TCP port."""

HINTS = {"f32": "f32", "bf16": "bf16", "int8": "bf16"}
"""What OpenVINO computes in where an operation is not quantised, as in our own service."""

_HEADER = struct.Struct("<2I 4f 2i 4f")


class Slice(NamedTuple):
    """A slice with the plan of its series, named as in ``preprocess.reference``.

    Attributes:
        image: int16 [rows, columns].
        region: (y0, x0, y1, x1) in pixel-edge coordinates; a start above its end flips the axis.
        size: Rows and columns after resizing, at most the canvas.
        intensity: (scale, offset, gain, bias).
    """

    image: NDArray[np.int16]
    region: tuple[float, ...]
    size: tuple[int, ...]
    intensity: tuple[float, ...]


def pack(one: Slice) -> bytes:
    """A slice as a request's body: a header of 48 bytes, then the pixels, little-endian."""
    header = _HEADER.pack(*one.image.shape, *one.region, *one.size, *one.intensity)
    return header + one.image.astype("<i2", copy=False).tobytes()


def unpack(body: bytes) -> Slice:
    """The slice in a request's body; its pixels are not copied.

    Raises:
        ValueError: The body is not as long as its header says.
    """
    values = _HEADER.unpack_from(body) if len(body) >= _HEADER.size else (0,) * 12
    rows, columns = values[:2]
    if len(body) != _HEADER.size + 2 * rows * columns or not rows * columns:
        raise ValueError(f"expected a header and {rows} x {columns} int16, got {len(body)} bytes")
    image = np.frombuffer(body, "<i2", offset=_HEADER.size).reshape(rows, columns)
    return Slice(image, values[2:6], values[6:8], values[8:])


def network_image(one: Slice, canvas: tuple[int, int]) -> NDArray[np.float32]:
    """A slice as the network sees it: resized, clamped, centred among the darkest values.

    Returns:
        float32 [1, 1, canvas rows, canvas columns].
    """
    (y0, x0, y1, x1), (height, width) = one.region, one.size
    scale, offset, gain, bias = map(np.float32, one.intensity)
    image = _resize(one.image.astype(np.float32), y0, y1, height)
    image = _resize(np.ascontiguousarray(image.T), x0, x1, width).T
    out = np.full((1, 1, *canvas), bias, dtype=np.float32)
    top, left = (canvas[0] - height) // 2, (canvas[1] - width) // 2
    inner = out[0, 0, top : top + height, left : left + width]
    np.multiply(image, scale, out=inner)
    inner += offset
    np.clip(inner, 0, 1, out=inner)
    inner *= gain
    inner += bias
    return out


def _resize(image: NDArray[np.float32], start: float, end: float, length: int) -> NDArray[Any]:
    """Resizes the first axis; leaves it alone where nothing would change."""
    pixels = image.shape[0]
    if (start, end, length) == (0, pixels, pixels):
        return image
    resized: NDArray[Any] = _resizing(pixels, start, end, length) @ image
    return resized


@functools.lru_cache(maxsize=256)
def _resizing(pixels: int, start: float, end: float, length: int) -> csr_array:
    """Antialiased linear interpolation of one axis [length, pixels], the same for a whole series.

    A dense product would cost four times as much on 512 x 512: five in 512 weights are not zero.
    """
    step = (end - start) / length
    radius = max(abs(step), 1.0)
    centre = start + (np.arange(length) + 0.5) * step
    taps = np.floor(centre - radius - 0.5)[:, None] + np.arange(np.ceil(2 * radius) + 2)
    weights = np.maximum(0, 1 - np.abs(taps + 0.5 - centre[:, None]) / radius)
    weights /= weights.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(length), taps.shape[1])
    columns = np.clip(taps, 0, pixels - 1).astype(np.int32).ravel()
    matrix = csr_array((weights.ravel(), (rows, columns)), (length, pixels), dtype=np.float32)
    matrix.eliminate_zeros()
    return matrix


class Segmenter:
    """The network at OpenVINO's best settings, for servers that collect requests into batches.

    A slice that comes alone goes through a model compiled for latency, on all cores; several go
    one by one through parallel streams, which costs less CPU time than one large inference does.

    Args:
        network: ONNX or OpenVINO XML, float32 [n, 1, rows, columns] to uint8 [n, rows, columns].
        precision: A key of ``HINTS``.
    """

    def __init__(self, network: Path, precision: str) -> None:
        core = ov.Core()
        model = core.read_model(network)
        rows, columns = (model.input(0).partial_shape[axis].get_length() for axis in (2, 3))
        self._canvas = (rows, columns)
        model.reshape([1, 1, rows, columns])
        exact = {"INFERENCE_PRECISION_HINT": HINTS[precision]}
        alone = core.compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY", **exact})
        streams = core.compile_model(model, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT", **exact})
        # Twice as many as run at a time, so that no stream waits for Python.
        count = 2 * int(streams.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._alone = alone.create_infer_request()
        self._requests = [streams.create_infer_request() for _ in range(count)]

    @classmethod
    def from_environment(cls) -> Self:
        """The one that this server's environment names."""
        return cls(Path(os.environ[NETWORK]), os.environ[PRECISION])

    def batch(self, bodies: Sequence[bytes]) -> list[bytes]:
        """The masks of several requests, in their order; for one thread at a time."""
        if len(bodies) == 1:
            self._alone.infer({0: self._image(bodies[0])}, share_inputs=True)
            return [_mask(self._alone)]
        masks: list[bytes] = []
        under_way: deque[Any] = deque()
        for request, body in zip(cycle(self._requests), bodies, strict=False):
            image = self._image(body)
            if len(under_way) == len(self._requests):
                masks.append(_finish(under_way.popleft()))
            request.start_async({0: image}, share_inputs=True)
            under_way.append(request)
        return masks + [_finish(request) for request in under_way]

    def _image(self, body: bytes) -> NDArray[np.float32]:
        return network_image(unpack(body), self._canvas)


class AsyncSegmenter(Segmenter):
    """The same for servers with an event loop, which answers one request while others run."""

    def __init__(self, network: Path, precision: str) -> None:
        super().__init__(network, precision)
        self._free: asyncio.Queue[Any] = asyncio.Queue()
        for request in self._requests:
            self._free.put_nowait(request)
        self._under_way = 0

    async def segment(self, body: bytes) -> bytes:
        """The mask of one request; any number may wait at a time."""
        image = self._image(body)
        self._under_way += 1
        try:
            if self._under_way == 1:
                return await _answer(self._alone, image)
            request = await self._free.get()
            try:
                return await _answer(request, image)
            finally:
                self._free.put_nowait(request)
        finally:
            self._under_way -= 1


async def _answer(request: Any, image: NDArray[np.float32]) -> bytes:
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    request.set_callback(lambda _: loop.call_soon_threadsafe(done.set), None)
    request.start_async({0: image}, share_inputs=True)
    try:
        await done.wait()
    finally:
        # Raises what went wrong; if the caller hung up, the request is not handed on while it runs.
        request.wait()
    return _mask(request)


def _finish(request: Any) -> bytes:
    request.wait()
    return _mask(request)


def _mask(request: Any) -> bytes:
    mask: NDArray[np.uint8] = request.get_output_tensor(0).data
    return mask.tobytes()


def infer(network: Path, precision: str, images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """What the network says of images that are ready, for comparison; one after the other.

    Args:
        network: As of ``Segmenter``.
        precision: A key of ``HINTS``.
        images: float32 [slices, 1, rows, columns].

    Returns:
        uint8 [slices, rows, columns].
    """
    core = ov.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": HINTS[precision]}
    request = core.compile_model(core.read_model(network), "CPU", settings).create_infer_request()
    return np.concatenate([request.infer({0: image[None]})[0] for image in images])


def port() -> int:
    """The TCP port that this server's environment names."""
    return int(os.environ[PORT])
