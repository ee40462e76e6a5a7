"""A peer as a way: its server as a child in its own environment, our slices to it over HTTP.

slices ─HTTP/1.1, kept alive─▶ BentoML | FastAPI | LitServe | mosec | Ray Serve ─▶ masks
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import aiohttp
import numpy as np

from client.addresses import free_ports
from client.errors import ConfigurationError, Transient
from loadtest.material import Material
from loadtest.peers.children import Child
from loadtest.peers.environments import PEERS, Environment
from loadtest.peers.work import NETWORK, PORT, PRECISION, Slice, pack
from loadtest.ways import Work

__all__ = ("SERVERS", "Peer")

SERVERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "bentoml": ("-m", "bentoml", "serve", "loadtest.peers.bentoml.serve:Segmentation",
                    "--host", "127.0.0.1", "--port", "{port}"),
        "fastapi": ("-m", "loadtest.peers.fastapi.serve"),
        "litserve": ("-m", "loadtest.peers.litserve.serve"),
        "mosec": ("-m", "loadtest.peers.mosec.serve",
                  "--address", "127.0.0.1", "--port", "{port}", "--log-level", "warning"),
        "ray_serve": ("-m", "loadtest.peers.ray_serve.serve"),
    }
)  # fmt: skip
"""What the Python of a peer's environment is given, by the peers' names."""

SETTINGS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "bentoml": {"BENTOML_DO_NOT_TRACK": "true"},
        "litserve": {"LITSERVE_DO_NOT_TRACK": "1"},
        # The first is Ray's own switch for throughput, the second keeps it from phoning home.
        "ray_serve": {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_USAGE_STATS_ENABLED": "0"},
    }
)
"""Environment variables that only one peer has."""

START_TIMEOUT_S = 120.0
POLL_S = 0.2
REQUEST_TIMEOUT_S = 60.0


class Peer:
    """As many callers as slices in flight, each with one slice at a time.

    An async context manager that owns the server; inside the context it has answered a slice.
    The callers live in this process, so what they cost counts, as with the ensemble.

    Args:
        name: One of ``SERVERS``.
        network: The file that the raw engine runs too, ONNX or OpenVINO's XML.
        precision: A key of ``work.HINTS``.
        material: What to segment.
        slices_alone: How many slices a run with one in flight takes.
        log_path: Where the server's output goes.
        environment: Where its packages lie; None means where they are installed to.

    Raises:
        ConfigurationError: There is no such peer.
    """

    def __init__(
        self,
        name: str,
        network: Path,
        precision: str,
        material: Material,
        slices_alone: int,
        *,
        log_path: Path,
        environment: Environment | None = None,
    ) -> None:
        if name not in SERVERS:
            raise ConfigurationError(f"Expected one of {', '.join(SERVERS)}, got {name!r}.")
        self._name = name
        self._network = network
        self._precision = precision
        self._material = material
        self._slices_alone = slices_alone
        self._environment = environment or Environment.of(name)
        self._child = Child(log_path)
        self._url = ""
        self._owned = contextlib.AsyncExitStack()
        self._session: aiohttp.ClientSession | None = None
        self.masks = np.empty((material.slices, *material.images.shape[2:]), dtype=np.uint8)
        """uint8 [slices, rows, columns] of the runs so far, on the canvas."""

    @property
    def name(self) -> str:
        """As in ``SERVERS``."""
        return self._name

    async def __aenter__(self) -> Self:
        """Starts the server.

        Raises:
            ConfigurationError: Its environment is not installed, or it did not answer.
        """
        python = self._environment.require()
        (port,) = free_ports(1)
        argv = [argument.format(port=port) for argument in SERVERS[self._name]]
        self._url = f"http://127.0.0.1:{port}/segment"
        async with contextlib.AsyncExitStack() as stack:
            await self._child.start((str(python), *argv), self._variables(port))
            stack.push_async_callback(self._child.stop)
            self._session = await stack.enter_async_context(_session())
            await self._until_ready(self._session)
            self._owned = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._owned.aclose()

    def processes(self) -> Mapping[str, int]:
        """This process and the server; the server's children count with it."""
        return {"client": os.getpid(), self._name: self._child.pid}

    async def run(self, in_flight: int) -> Work:
        """See ``Way.run``.

        Raises:
            Transient: The server refused a slice or did not answer.
        """
        if self._session is None:
            raise RuntimeError("expected to be inside the context")
        count = self._slices_alone if in_flight == 1 else self._material.slices
        todo = iter(range(count))
        latencies: list[float] = []
        callers = (self._call(self._session, todo, latencies) for _ in range(min(in_flight, count)))
        try:
            await asyncio.gather(*callers)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Transient(f"Expected {self._name} to answer, got {error!r}.") from error
        return Work(count, tuple(latencies))

    async def _call(
        self, session: aiohttp.ClientSession, todo: Iterator[int], latencies: list[float]
    ) -> None:
        for index in todo:
            began = time.perf_counter()
            async with session.post(self._url, data=self._body(index), headers=HEADERS) as response:
                mask = await response.read()
            if response.status != 200:
                raise Transient(f"Expected a mask from {self._name}, got status {response.status}.")
            latencies.append(time.perf_counter() - began)
            self.masks[index] = np.frombuffer(mask, np.uint8).reshape(self.masks.shape[1:])

    def _body(self, index: int) -> bytes:
        """One slice as a request's body."""
        plan = self._material.plan
        tensors = plan.tensors(self._material.series.stored[index])
        return pack(
            Slice(
                tensors[plan.names.image],
                tuple(tensors[plan.names.region]),
                tuple(tensors[plan.names.size]),
                tuple(tensors[plan.names.intensity]),
            )
        )

    async def _until_ready(self, session: aiohttp.ClientSession) -> None:
        body = self._body(0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_TIMEOUT_S):
                while self._child.alive:
                    with contextlib.suppress(aiohttp.ClientError):
                        async with session.post(self._url, data=body, headers=HEADERS) as response:
                            await response.read()
                        if response.status == 200:
                            return
                    await asyncio.sleep(POLL_S)
        raise ConfigurationError(
            f"{self._name} did not answer a slice. The end of its log:\n{self._child.log_tail()}"
        )

    def _variables(self, port: int) -> dict[str, str]:
        return {
            "PYTHONPATH": str(PEERS.parents[1]),
            NETWORK: str(self._network),
            PRECISION: self._precision,
            PORT: str(port),
            **SETTINGS.get(self._name, {}),
        }


HEADERS = MappingProxyType(
    # Compressed answers would cost more than they save on one machine.
    {"Content-Type": "application/octet-stream", "Accept-Encoding": "identity"}
)


def _session() -> aiohttp.ClientSession:
    """A client without what costs time and is not needed here."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
        auto_decompress=False,
    )
