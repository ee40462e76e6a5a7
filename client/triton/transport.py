"""Two ways for slices to a Triton server and for their masks back.

              ┌─ Messages: slices in the request, masks in the answer; any server
slices, plan ─┤
              └─ SharedMemory: copied into a region, masks copied out of it; this machine
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc import service_pb2_grpc as services
from tritonclient.utils import np_to_triton_dtype

from client.telemetry.traces import trace_metadata
from client.triton.regions import Owner, Region, clear_names, lives, owner_of
from preprocess.serving.configured import MASK, OUTPUTS
from preprocess.spec import ModelSpec

__all__ = ("Inputs", "Messages", "SharedMemory", "TooLarge", "Transport", "Unsuited")

_INFER = "/inference.GRPCInferenceService/ModelInfer"
_ALIGNMENT_BYTES = 64
_SMALLEST_REGION_BYTES = 1 << 20
LARGEST_REGION_BYTES = 64 << 20
"""Of a request that needs more, the copies are not what costs."""
UNWRITTEN = 255
"""Fills the place of the masks before a request; no model with such a class is served this way."""

Inputs = dict[str, NDArray[Any]]


class Unsuited(Exception):
    """The server and this process share no memory, or not enough; another transport will do."""


class TooLarge(Unsuited):
    """This request needs more memory than a region may have; others need not."""


class Transport(Protocol):
    """One way to the server."""

    async def infer(self, inputs: Inputs, masks: NDArray[np.uint8], timeout_s: float) -> None:
        """Asks for the masks of some slices.

        Args:
            inputs: The model's inputs by name, batch axis first.
            masks: Where the masks go, [slices, canvas rows, canvas columns].
            timeout_s: Deadline.

        Raises:
            grpc.aio.AioRpcError: The server refused, or is away.
            Unsuited: Nothing was asked, or nothing was answered, for want of shared memory.
        """
        ...


class Messages:
    """Slices and masks as tensors in gRPC messages.

    Args:
        channel: To the server.
        spec: The model.
    """

    def __init__(self, channel: grpc.aio.Channel, spec: ModelSpec) -> None:
        self._infer: Any = channel.unary_unary(
            _INFER,
            request_serializer=messages.ModelInferRequest.SerializeToString,
            response_deserializer=messages.ModelInferResponse.FromString,
        )
        self._spec = spec

    async def infer(self, inputs: Inputs, masks: NDArray[np.uint8], timeout_s: float) -> None:
        """See ``Transport.infer``."""
        request = _request(self._spec, inputs)
        request.outputs.add(name=self._spec.tensors.mask)
        request.raw_input_contents.extend(array.tobytes() for array in inputs.values())
        answer = await self._infer(request, timeout=timeout_s, metadata=trace_metadata())
        masks[...] = np.frombuffer(answer.raw_output_contents[0], np.uint8).reshape(masks.shape)


@dataclass
class _Place:
    """A region that the server has open, and the requests that name it, by the image's shape."""

    region: Region
    requests: dict[tuple[int, ...], bytes]


class SharedMemory:
    """Slices and masks in regions that the server has open too.

    Contract:
        - A region carries one request at a time. It carries another one only after an answer: what
          was cancelled or late may still be written to it.
        - The place of the masks is filled beforehand with a value that no mask has. An answer after
          which it is still there came from a server that sees other memory.
        - A region's name is gone as soon as the server has it open. What a killed process leaves
          with the server goes when the next one opens its first region there.

    Args:
        channel: To the server.
        spec: The model.
        metadata: What opens the server's shared memory protocol to us.
    """

    def __init__(
        self, channel: grpc.aio.Channel, spec: ModelSpec, metadata: tuple[tuple[str, str], ...]
    ) -> None:
        self._infer: Any = channel.unary_unary(_INFER)
        self._service: Any = services.GRPCInferenceServiceStub(channel)
        self._spec = spec
        self._metadata = metadata
        self._owner = Owner()
        self._owned = contextlib.ExitStack()
        self._known = False  # whether others can see that the owner lives
        self._idle: list[_Place] = []
        self._left: list[Region] = []

    async def infer(self, inputs: Inputs, masks: NDArray[np.uint8], timeout_s: float) -> None:
        """See ``Transport.infer``."""
        layout = _Layout(self._spec, inputs, masks)
        if layout.end > LARGEST_REGION_BYTES:
            raise TooLarge(f"{layout.end} bytes, a region has {LARGEST_REGION_BYTES} at most")
        place = await self._take(layout.end, timeout_s)
        try:
            answered = await self._ask(place, layout, inputs, timeout_s)
        except BaseException:
            self._leave(place, *self._idle)
            self._idle.clear()
            raise
        masks[...] = answered
        if masks.max() == UNWRITTEN:
            self._leave(place)
            raise Unsuited("the server does not see our memory")
        self._idle.append(place)

    async def _ask(
        self, place: _Place, layout: _Layout, inputs: Inputs, timeout_s: float
    ) -> NDArray[np.uint8]:
        content = place.region.content
        for name, array in inputs.items():
            layout.view(content, name)[...] = array
        answered = layout.view(content, MASK)
        answered.fill(UNWRITTEN)
        key = inputs[self._spec.tensors.image].shape
        if key not in place.requests:
            place.requests[key] = layout.request(place.region.name, inputs)
        await self._infer(place.requests[key], timeout=timeout_s, metadata=trace_metadata())
        return answered

    async def _take(self, size_bytes: int, timeout_s: float) -> _Place:
        """An idle region that is large enough, or a new one."""
        for place in reversed(self._idle):
            if place.region.size_bytes >= size_bytes:
                self._idle.remove(place)
                return place
        if self._idle:  # too small for what comes now
            self._leave(self._idle.pop())
        if not self._known:
            self._owned.enter_context(self._owner)
            self._known = True
            await asyncio.to_thread(clear_names)
            await self._clear_up(timeout_s)
        await self._forget_left(timeout_s)
        return await self._open(_rounded(size_bytes), timeout_s)

    async def _open(self, size_bytes: int, timeout_s: float) -> _Place:
        try:
            region = Region(self._owner, size_bytes)
        except OSError as error:
            raise Unsuited(f"no region of {size_bytes} bytes: {error.strerror}") from error
        try:
            await self._service.SystemSharedMemoryRegister(
                messages.SystemSharedMemoryRegisterRequest(
                    name=region.name, key=region.key, byte_size=size_bytes
                ),
                metadata=self._metadata,
                timeout=timeout_s,
            )
        except grpc.aio.AioRpcError as error:
            region.close()
            raise Unsuited(f"the server did not open our memory ({error.code().name})") from error
        except BaseException:
            self._left.append(region)
            raise
        finally:
            region.unlink()
        return _Place(region, {})

    def _leave(self, *places: _Place) -> None:
        self._left += [place.region for place in places]

    async def _forget_left(self, timeout_s: float) -> None:
        """Has the server close what will not be used again, as far as it is done with it."""
        for region in tuple(self._left):
            if await self._unregister(region.name, timeout_s) and region in self._left:
                self._left.remove(region)
                region.close()

    async def _clear_up(self, timeout_s: float) -> None:
        """Has the server close the regions of processes that do not live any more."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            status = await self._service.SystemSharedMemoryStatus(
                messages.SystemSharedMemoryStatusRequest(),
                metadata=self._metadata,
                timeout=timeout_s,
            )
            for name in status.regions:
                owner = owner_of(name)
                if owner and not lives(owner):
                    await self._unregister(name, timeout_s)

    async def _unregister(self, name: str, timeout_s: float) -> bool:
        """Whether the server has closed a region; it does not while a request is using it."""
        try:
            await self._service.SystemSharedMemoryUnregister(
                messages.SystemSharedMemoryUnregisterRequest(name=name),
                metadata=self._metadata,
                timeout=timeout_s,
            )
        except grpc.aio.AioRpcError:
            return False
        return True

    async def close(self, timeout_s: float = 2.0) -> None:
        """Has the server close all regions, and closes them here."""
        self._leave(*self._idle)
        self._idle.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._forget_left(timeout_s)
        for region in self._left:
            region.close()
        self._left.clear()
        self._owned.close()


class _Layout:
    """Where the tensors of one request lie in a region, the masks after the inputs."""

    def __init__(self, spec: ModelSpec, inputs: Inputs, masks: NDArray[np.uint8]) -> None:
        self._spec = spec
        self._places: dict[str, tuple[int, np.dtype[Any], tuple[int, ...], int]] = {}
        self.end = 0
        for name, array in (*inputs.items(), (MASK, masks)):
            self._places[name] = (self.end, array.dtype, array.shape, array.nbytes)
            self.end += -(-array.nbytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES

    def view(self, content: NDArray[np.uint8], name: str) -> NDArray[Any]:
        """One tensor in a region's content."""
        start, dtype, shape, size_bytes = self._places[name]
        return content[start : start + size_bytes].view(dtype).reshape(shape)

    def request(self, region: str, inputs: Inputs) -> bytes:
        """The request for what lies so in a region, serialised."""
        request = _request(self._spec, inputs)
        output = request.outputs.add(name=self._spec.tensors.mask)
        named = [(tensor, tensor.name) for tensor in request.inputs] + [(output, MASK)]
        for tensor, name in named:
            start, _, _, size_bytes = self._places[name]
            tensor.parameters["shared_memory_region"].string_param = region
            tensor.parameters["shared_memory_offset"].int64_param = start
            tensor.parameters["shared_memory_byte_size"].int64_param = size_bytes
        return bytes(request.SerializeToString())


def _request(spec: ModelSpec, inputs: Inputs) -> Any:
    """A request for the masks alone, of the ensemble and, through it, of the network."""
    request = messages.ModelInferRequest(model_name=spec.name)
    request.parameters[OUTPUTS].string_param = MASK
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
    return request


def _rounded(size_bytes: int) -> int:
    """The next power of two, so that series of about the same size share regions."""
    return max(_SMALLEST_REGION_BYTES, 1 << (size_bytes - 1).bit_length())
