"""The pod of the cpu profile, container by container: a model that dies is revived, or told of."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.addresses import free_ports
from client.triton.container import ADMIN_KEY, ARGUMENTS
from client.triton.guard import TRITON
from client.triton.installation import SHARED_MEMORY, shared_memory_prefix
from client.triton.probe import probe
from preprocess.spec import ModelSpec
from tests.integration.test_triton_life import stubs

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
START_S = 120.0
REVIVAL_S = 60.0
"""A request that is inside a process when it is killed is never answered: a probe waits 20 s."""

Process = asyncio.subprocess.Process


@dataclass(frozen=True)
class Pod:
    """What the containers of one pod share: files, network, settings.

    Attributes:
        folder: Their files and logs.
        repository: The models.
        ports: Of Triton's HTTP, gRPC and metrics, and of the watchdog's health.
    """

    folder: Path
    repository: Path
    ports: tuple[int, int, int, int]

    @property
    def triton_url(self) -> str:
        return f"127.0.0.1:{self.ports[1]}"

    async def prepare(self) -> None:
        """Run the init container, and move the server to ports that are free here."""
        for name in ("server", "worker"):
            (self.folder / name).mkdir()
        folders = ("--server", str(self.folder / "server"), "--worker", str(self.folder / "worker"))
        async with self.process("prepare", *folders) as preparing:
            assert await preparing.wait() == 0
        path = self.folder / "server" / ARGUMENTS
        text = path.read_text()
        for name, fixed, port in zip(
            ("http", "grpc", "metrics"), (8000, 8001, 8002), self.ports[:3], strict=True
        ):
            text = text.replace(f"--{name}-port={fixed}", f"--{name}-port={port}")
        assert json.loads(text) != json.loads(path.read_bytes())
        path.write_text(text)

    @contextlib.asynccontextmanager
    async def process(self, action: str, *arguments: str) -> AsyncIterator[Process]:
        """A container's only process, killed at the end if it still runs."""
        with (self.folder / f"{action}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "client.triton.container", action, *arguments),
                cwd=ROOT,
                env=os.environ
                | {
                    "HOUNSFIELD_MODEL_REPOSITORY": str(self.repository),
                    "HOUNSFIELD_TRITON_URL": self.triton_url,
                    "HOUNSFIELD_HEALTH_LISTEN": f"127.0.0.1:{self.ports[3]}",
                },
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    @contextlib.asynccontextmanager
    async def triton(self) -> AsyncIterator[Process]:
        """Triton's container, from the moment its startup probe is content."""
        async with self.process("serve", str(self.folder / "server" / ARGUMENTS)) as process:
            try:
                await until(self._is_ready, START_S)
                yield process
            finally:
                for region in SHARED_MEMORY.glob(f"{shared_memory_prefix(process.pid)}*"):
                    region.unlink()

    @contextlib.asynccontextmanager
    async def watchdog(self) -> AsyncIterator[Process]:
        """The watchdog's container, from the moment its startup probe is content."""
        async with self.process("watch", str(self.folder / "server" / ADMIN_KEY)) as process:
            await until(lambda: self.health_is(SERVING, ""), START_S)
            yield process

    async def _is_ready(self) -> bool:
        return await asyncio.to_thread(self._status, "/v2/health/ready") == 200

    def _status(self, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[0], timeout=10)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("GET", path)
            return connection.getresponse().status
        return 0

    def stays_ready_for_triton(self, spec: ModelSpec) -> bool:
        """Whether Triton itself calls its server live and the network ready."""
        paths = ("/v2/health/live", f"/v2/models/{spec.name}_net/versions/1/ready")
        return all(self._status(path) == 200 for path in paths)

    async def health_is(self, status: int, service: str = TRITON) -> bool:
        """Ask as the kubelet does; nobody who answers counts as no answer."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.ports[3]}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service=service)
            try:
                return bool((await stub.Check(request, timeout=10)).status == status)
            except grpc.aio.AioRpcError:
                return False

    async def answers(self, spec: ModelSpec) -> bool:
        """Whether the model answers a slice."""
        try:
            await probe(self.triton_url, spec)
        except Exception:
            return False
        return True


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float = REVIVAL_S) -> None:
    async with asyncio.timeout(timeout_s):
        while not await condition():
            await asyncio.sleep(0.1)


@pytest.fixture
async def pod(random_repository: Path, tmp_path: Path) -> Pod:
    repository = tmp_path / "models"
    shutil.copytree(random_repository, repository)
    http_port, grpc_port, metrics_port, health_port = free_ports(4)
    made = Pod(tmp_path, repository, (http_port, grpc_port, metrics_port, health_port))
    await made.prepare()
    return made


@pytest.mark.parametrize("step", ["net", "prep"])
async def test_a_killed_model_is_revived_and_triton_is_left_running(
    pod: Pod, brain_mr: ModelSpec, step: str
) -> None:
    async with pod.watchdog() as watchdog:
        # Triton starts after it: a server that is away needs no restart.
        await until(lambda: pod.health_is(SERVING))
        async with pod.triton() as triton:
            await until(lambda: pod.answers(brain_mr))
            before = stubs(triton.pid)[f"brain_mr_{step}"]
            asked: list[bool] = []

            async def revived() -> bool:
                asked.append(await pod.health_is(SERVING))
                fresh = stubs(triton.pid).get(f"brain_mr_{step}")
                return fresh not in (None, before) and await pod.answers(brain_mr)

            os.kill(before, signal.SIGKILL)
            await until(revived)
            assert all(asked)
            assert await pod.health_is(SERVING)
            assert triton.returncode is None
        watchdog.terminate()
        assert await asyncio.wait_for(watchdog.wait(), 10) == 0
    assert "revived" in (pod.folder / "watch.log").read_text()


async def test_a_model_that_cannot_be_revived_is_told_until_a_new_triton_serves_it(
    pod: Pod, brain_mr: ModelSpec
) -> None:
    network = pod.repository / "brain_mr_net" / "1"
    async with pod.watchdog():
        async with pod.triton() as triton:
            await until(lambda: pod.health_is(SERVING))
            network.rename(pod.repository.parent / "kept")
            os.kill(stubs(triton.pid)["brain_mr_net"], signal.SIGKILL)
            await until(lambda: pod.health_is(NOT_SERVING))
            assert await pod.health_is(SERVING, "")
        # What the kubelet does then; while it starts anew, its startup probe alone is asked.
        (pod.repository.parent / "kept").rename(network)
        async with pod.triton():
            await until(lambda: pod.health_is(SERVING))
            assert await pod.answers(brain_mr)


async def test_a_dead_model_is_ready_to_triton_and_lost_to_a_watchdog_without_the_key(
    pod: Pod, brain_mr: ModelSpec
) -> None:
    async with pod.triton() as triton:
        (pod.folder / "server" / ADMIN_KEY).write_text("guess")
        async with pod.watchdog():
            await until(lambda: pod.health_is(SERVING))
            await until(lambda: pod.answers(brain_mr))
            os.kill(stubs(triton.pid)["brain_mr_net"], signal.SIGKILL)
            await until(lambda: pod.health_is(NOT_SERVING))
            # Why Triton's own answers are no probe of a model.
            assert await asyncio.to_thread(pod.stays_ready_for_triton, brain_mr)


async def test_a_triton_that_answers_nothing_is_told(pod: Pod) -> None:
    async with pod.triton() as triton, pod.watchdog():
        await until(lambda: pod.health_is(SERVING))
        os.kill(triton.pid, signal.SIGSTOP)
        await until(lambda: pod.health_is(NOT_SERVING))
        os.kill(triton.pid, signal.SIGCONT)
        await until(lambda: pod.health_is(SERVING))
