"""Asks Triton for the masks of a series, many slices in flight.

slices, plan ─▶ requests ─▶ Triton ensemble ─▶ masks on the canvas
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2 as model_config
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc import service_pb2_grpc as services
from tritonclient.grpc.aio import InferenceServerClient

from client.errors import RefusalCode, Rejected
from client.jobs import Priority
from client.telemetry.metrics import WorkerMetrics
from client.telemetry.traces import span
from client.triton.backlog import Backlog
from client.triton.carrier import Carrier
from client.triton.merging import Merger
from client.triton.occupancy import EngineUse
from client.triton.slots import Slots
from client.triton.statuses import RETRIED, status_of, translate
from client.triton.transport import Inputs
from preprocess.errors import PlanError
from preprocess.plan import SeriesPlan
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
_GPU = model_config.ModelInstanceGroup.KIND_GPU


@dataclass(frozen=True)
class ModelIdentity:
    """Which model answered, for the provenance of a result.

    Attributes:
        name: Model.
        version: Version of the network in service.
        server: Name and version of the server.
        engine: What runs the network.
        device: What that runs on, ``gpu`` or ``cpu``.
        network_sha256: Hash of the exported network, "" where the repository is not at hand.
        spec_sha256: Hash of the model's description.
    """

    name: str
    version: str
    server: str
    engine: str
    device: str
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
        use: EngineUse | None = None,
    ) -> NDArray[np.uint8]:
        """Segments slices.

        Args:
            plan: The plan of their series, made for this model.
            slices: Stored values [slices, rows, columns].
            priority: STAT goes before every routine slice that is not with the server yet.
            progress: Called with the number of slices done so far, each time it grows.
            use: What this call takes of the server is added to it, also when it fails.

        Returns:
            Masks on the canvas [slices, canvas rows, canvas columns], in the order of the slices;
            ``plan.restore`` brings them back to the native grid.

        Raises:
            Rejected: The slices do not fit their plan.
            Transient: The server is away, or stayed busy, for longer than the stated limit.
            ConfigurationError: The server does not serve this model as described.
        """
        ...

    def make_way(self) -> None:
        """Says that a STAT study is about to come: routine slices wait a moment."""
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
        slices_in_flight: Most slices that Triton ever holds at a time, unless ``Slots`` are shared.
        slices_per_request: Most slices sent together.
        request_timeout_s: Deadline of one request.
        retry_for_s: How long a request is tried again while the server is away.
        worker_key: Opens the server's shared memory and statistics, and is why they are tried at
            all; a server that is not restricted takes any. Empty: slices travel in messages, and
            what Triton holds does not follow its queue.
    """

    url: str
    slices_in_flight: int = 64
    slices_per_request: int = 4
    request_timeout_s: float = 60.0
    retry_for_s: float = 20.0
    worker_key: str = field(default="", repr=False)


class TritonModel:
    """One model on a Triton server; an async context manager that owns its connection.

    Args:
        spec: The model.
        settings: How to call it.
        repository: The model repository, where it is at hand, for the network's hash.
        slots: Shared by all models on the same server; None: this model has its own.
        metrics: Where requests and their wait are told.
    """

    def __init__(
        self,
        spec: ModelSpec,
        settings: TritonModelSettings,
        repository: Path | None = None,
        slots: Slots | None = None,
        metrics: WorkerMetrics | None = None,
    ) -> None:
        self._spec = spec
        self._settings = settings
        self._repository = repository
        self._slots = slots or Slots(settings.slices_in_flight)
        self._metrics = metrics or WorkerMetrics()
        self._tell_request = self._metrics.requests(spec.name)
        self._hashes: dict[str, str] = {}
        self._backlog: Backlog | None = None
        self._owned = contextlib.AsyncExitStack()

    @property
    def spec(self) -> ModelSpec:
        """The model's description."""
        return self._spec

    @property
    def way(self) -> str:
        """How the last slices travelled, see ``Carrier.way``; inside the context."""
        return self._carrier.way

    async def __aenter__(self) -> Self:
        channel = grpc.aio.insecure_channel(self._settings.url, options=CHANNEL_ARGUMENTS)
        await self._owned.enter_async_context(channel)
        self._service: Any = services.GRPCInferenceServiceStub(channel)
        self._carrier = Carrier(channel, self._spec, self._settings.worker_key)
        self._owned.push_async_callback(self._carrier.close)
        self._merger = Merger(self._send, self._most_together)
        self._owned.push_async_callback(self._merger.close)
        if key := self._settings.worker_key:
            most = self._settings.slices_per_request
            self._backlog = Backlog(
                channel, self._spec, self._slots, most, worker_key=key, tell_wait=self._tell_wait
            )
            self._owned.push_async_callback(_end, asyncio.create_task(self._backlog.run()))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._owned.aclose()

    async def segment(
        self,
        plan: SeriesPlan,
        slices: NDArray[np.int16],
        *,
        priority: Priority = Priority.ROUTINE,
        progress: Progress | None = None,
        use: EngineUse | None = None,
    ) -> NDArray[np.uint8]:
        """See ``Segmenter.segment``."""
        masks = np.empty((len(slices), *self._spec.geometry.size), dtype=np.uint8)
        line = self._slots.line(priority)
        use = use or EngineUse()
        sent = done = 0

        async def work() -> None:
            nonlocal sent, done
            while sent < len(slices):
                asked = min(self._step, len(slices) - sent)
                async with line.place(asked):
                    # Cut off only now: whoever came first took from the same rest.
                    part = slice(sent, min(sent + asked, len(slices)))
                    if part.start == part.stop:
                        return
                    sent = part.stop
                    number = part.stop - part.start
                    with span("infer", slices=number), self._slots.occupancy.of(number, use):
                        await self._infer(plan, slices[part], masks[part], priority)
                done += number
                use.slices += number
                if progress is not None:
                    progress(done)

        requests = -(-min(self._slots.most, len(slices)) // self._step)
        await _together([work() for _ in range(max(1, requests))])
        return masks

    def make_way(self) -> None:
        """See ``Segmenter.make_way``."""
        self._slots.make_way()

    async def identity(self) -> ModelIdentity:
        """See ``Segmenter.identity``."""
        name, service = f"{self._spec.name}_net", self._service
        server = await self._ask(service.ServerMetadata, messages.ServerMetadataRequest())
        network = await self._ask(service.ModelMetadata, messages.ModelMetadataRequest(name=name))
        version = max(network.versions, key=int)
        answer = await self._ask(service.ModelConfig, messages.ModelConfigRequest(name=name))
        config = answer.config
        return ModelIdentity(
            name=self._spec.name,
            version=version,
            server=f"{server.name} {server.version}",
            engine=config.parameters["engine"].string_value,
            device="gpu" if _GPU in {group.kind for group in config.instance_group} else "cpu",
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

    def _most_together(self) -> int:
        """Slices of a request: half of what is with the server, so that it never waits for us."""
        return max(1, min(self._step, self._slots.taken // 2))

    @property
    def _step(self) -> int:
        """Slices of a request."""
        return self._backlog.step if self._backlog else self._settings.slices_per_request

    async def _infer(
        self,
        plan: SeriesPlan,
        part: NDArray[np.int16],
        masks: NDArray[np.uint8],
        priority: Priority,
    ) -> None:
        try:
            inputs = plan.batch(part)
        except PlanError as error:
            raise Rejected(RefusalCode.INVALID_ATTRIBUTE, str(error)) from error
        # STAT slices wait for nobody.
        send = self._send if priority is Priority.STAT else self._merger.infer
        await self._call(lambda timeout_s: send(inputs, masks, timeout_s))

    async def _send(self, inputs: Inputs, masks: NDArray[np.uint8], timeout_s: float) -> None:
        self._tell_request(len(masks))
        await self._carrier.infer(inputs, masks, timeout_s)

    def _tell_wait(self, seconds: float) -> None:
        self._metrics.show_triton_queue(self._spec.name, seconds)

    async def _ask(self, method: Callable[..., Awaitable[Any]], request: object) -> Any:
        return await self._call(lambda timeout_s: method(request, timeout=timeout_s))

    async def _call(self, call: Callable[[float], Awaitable[Any]]) -> Any:
        """Calls the server, again and again while it is away, within the stated limits."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._settings.retry_for_s
        pause_s = 0.05
        while True:
            try:
                return await call(self._settings.request_timeout_s)
            except grpc.aio.AioRpcError as error:
                if status_of(error) not in RETRIED or loop.time() + pause_s > give_up:
                    raise translate(error, f"a call of {self._spec.name}") from error
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)


def connect(url: str) -> Any:
    """A gRPC client of a Triton server that shares no connection state with others."""
    return InferenceServerClient(url, channel_args=CHANNEL_ARGUMENTS)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _sha256(path: Path) -> str:
    if not path.exists():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _together(coroutines: list[Coroutine[Any, Any, None]]) -> None:
    """Runs all; the first error cancels the others and is raised as it is."""
    if len(coroutines) == 1:
        await coroutines[0]
        return
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in coroutines:
                group.create_task(coroutine)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0]  # noqa: B904  # it has its own cause
