"""Asks Triton for the masks of a series, many slices in flight.

slices, plan ─▶ requests ─▶ Triton ensemble ─▶ masks on the canvas
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from client.errors import RefusalCode, Rejected
from client.jobs import Priority
from client.triton.statuses import RETRIED, status_of, translate
from preprocess.errors import PlanError
from preprocess.plan import SeriesPlan
from preprocess.serving.configured import MASK, OUTPUTS
from preprocess.spec import ModelSpec

__all__ = ("ModelIdentity", "Segmenter", "TritonModel", "TritonModelSettings", "connect")

CHANNEL_ARGUMENTS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]

Progress = Callable[[int], None]


@dataclass(frozen=True)
class ModelIdentity:
    """Which model answered, for the provenance of a result.

    Attributes:
        name: Model.
        version: Version of the network in service.
        server: Name and version of the server.
        engine: What runs the network.
        network_sha256: Hash of the exported network, "" where the repository is not at hand.
        spec_sha256: Hash of the model's description.
    """

    name: str
    version: str
    server: str
    engine: str
    network_sha256: str
    spec_sha256: str


class Segmenter(Protocol):
    """Segments the slices of a series with one model."""

    @property
    def spec(self) -> ModelSpec:
        """The model's description."""
        ...

    async def segment(
        self,
        plan: SeriesPlan,
        slices: NDArray[np.int16],
        *,
        priority: Priority = Priority.ROUTINE,
        progress: Progress | None = None,
    ) -> NDArray[np.uint8]:
        """Segments slices.

        Args:
            plan: The plan of their series, made for this model.
            slices: Stored values [slices, rows, columns].
            priority: STAT goes before every routine slice that is not with the server yet.
            progress: Called with the number of slices done so far, each time it grows.

        Returns:
            Masks on the canvas [slices, canvas rows, canvas columns], in the order of the slices;
            ``plan.restore`` brings them back to the native grid.

        Raises:
            Rejected: The slices do not fit their plan.
            Transient: The server is away, or stayed busy, for longer than the stated limit.
            ConfigurationError: The server does not serve this model as described.
        """
        ...

    async def identity(self) -> ModelIdentity:
        """Says which model answers now.

        Raises:
            Transient: As for ``segment``.
            ConfigurationError: As for ``segment``.
        """
        ...


@dataclass(frozen=True)
class TritonModelSettings:
    """How to call a model.

    Attributes:
        url: host:port of Triton's gRPC service.
        slices_in_flight: Most slices of one call that Triton holds at a time.
        slices_per_request: Slices sent together.
        request_timeout_s: Deadline of one request.
        retry_for_s: How long a request is tried again while the server is away.
    """

    url: str
    slices_in_flight: int = 8
    slices_per_request: int = 4
    request_timeout_s: float = 60.0
    retry_for_s: float = 20.0


class TritonModel:
    """One model on a Triton server; an async context manager that owns its connection.

    Args:
        spec: The model.
        settings: How to call it.
        repository: The model repository, where it is at hand, for the network's hash.
    """

    def __init__(
        self, spec: ModelSpec, settings: TritonModelSettings, repository: Path | None = None
    ) -> None:
        self._spec = spec
        self._settings = settings
        self._repository = repository
        self._client: Any = None
        self._hashes: dict[str, str] = {}

    @property
    def spec(self) -> ModelSpec:
        """The model's description."""
        return self._spec

    async def __aenter__(self) -> Self:
        self._client = connect(self._settings.url)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.close()

    async def segment(
        self,
        plan: SeriesPlan,
        slices: NDArray[np.int16],
        *,
        priority: Priority = Priority.ROUTINE,
        progress: Progress | None = None,
    ) -> NDArray[np.uint8]:
        """See ``Segmenter.segment``."""
        masks = np.zeros((len(slices), *self._spec.geometry.size), dtype=np.uint8)
        step = self._settings.slices_per_request
        starts = iter(range(0, len(slices), step))
        done = 0

        async def work(todo: Iterator[int]) -> None:
            nonlocal done
            for start in todo:
                part = slices[start : start + step]
                masks[start : start + step] = await self._infer(self._inputs(plan, part))
                done += len(part)
                if progress is not None:
                    progress(done)

        lanes = max(1, self._settings.slices_in_flight // step)
        await _together([work(starts) for _ in range(min(lanes, len(slices)))])
        return masks

    async def identity(self) -> ModelIdentity:
        """See ``Segmenter.identity``."""
        server = await self._call("get_server_metadata")
        network = f"{self._spec.name}_net"
        version = max((await self._call("get_model_metadata", network)).versions, key=int)
        config = (await self._call("get_model_config", network)).config
        return ModelIdentity(
            name=self._spec.name,
            version=version,
            server=f"{server.name} {server.version}",
            engine=config.parameters["engine"].string_value,
            network_sha256=await self._network_hash(version),
            spec_sha256=self._spec.sha256,
        )

    async def _network_hash(self, version: str) -> str:
        """Hash of a version's network; a version never changes, so its file is read once."""
        if self._repository is None:
            return ""
        if version not in self._hashes:
            path = self._repository / f"{self._spec.name}_net" / version / "model.onnx"
            self._hashes[version] = await asyncio.to_thread(_sha256, path)
        return self._hashes[version]

    def _inputs(self, plan: SeriesPlan, part: NDArray[np.int16]) -> list[InferInput]:
        try:
            each = [plan.tensors(stored) for stored in part]
        except PlanError as error:
            raise Rejected(RefusalCode.INVALID_ATTRIBUTE, str(error)) from error
        return [_input(name, np.stack([tensors[name] for tensors in each])) for name in each[0]]

    async def _infer(self, inputs: list[InferInput]) -> NDArray[np.uint8]:
        """Asks for the mask alone, the ensemble and, through it, the network."""
        name = self._spec.tensors.mask
        result = await self._call(
            "infer",
            self._spec.name,
            inputs,
            outputs=[InferRequestedOutput(name)],
            parameters={OUTPUTS: MASK},
        )
        masks: NDArray[np.uint8] = result.as_numpy(name)
        return masks

    async def _call(self, method: str, *arguments: object, **options: object) -> Any:
        """Calls the server, again and again while it is away, within the stated limits."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._settings.retry_for_s
        pause_s = 0.05
        while True:
            try:
                return await getattr(self._client, method)(
                    *arguments, client_timeout=self._settings.request_timeout_s, **options
                )
            except InferenceServerException as error:
                if status_of(error) not in RETRIED or loop.time() + pause_s > give_up:
                    raise translate(error, f"{method} with {self._spec.name}") from error
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)


def connect(url: str) -> Any:
    """A gRPC client of a Triton server that shares no connection state with others."""
    return InferenceServerClient(url, channel_args=CHANNEL_ARGUMENTS)


def _input(name: str, array: NDArray[Any]) -> InferInput:
    tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor


def _sha256(path: Path) -> str:
    if not path.exists():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _together(coroutines: list[Any]) -> None:
    """Runs all; the first error cancels the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in coroutines:
                group.create_task(coroutine)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0]  # noqa: B904  # it has its own cause
