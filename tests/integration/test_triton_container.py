"""The server as its container starts it: the same arguments, the same entry point, real probes."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import pytest_asyncio

from client.crypto.privatefiles import write_private
from client.triton.container import container_arguments
from client.triton.inference import TritonModel, TritonModelSettings
from client.triton.installation import SHARED_MEMORY, shared_memory_prefix
from client.triton.probe import synthetic_series
from client.triton.server import TritonSettings
from preprocess.spec import ModelSpec

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

ROOT = Path(__file__).parents[2]
START_S = 120.0


@dataclass(frozen=True)
class Container:
    """A server that runs as a container's only process would."""

    settings: TritonSettings
    http_port: int
    process: asyncio.subprocess.Process

    def get(self, path: str, method: str = "GET", port: int = 0) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port or self.http_port, timeout=10)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def container(
    random_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Container]:
    folder = tmp_path_factory.mktemp("container")
    settings = TritonSettings(random_repository).resolved()
    http_port = TritonSettings(random_repository).resolved().grpc_port  # a free one
    write_private(
        folder / "arguments.json", json.dumps(container_arguments(settings, http_port)).encode()
    )
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "client.triton.container", "serve"),
            str(folder / "arguments.json"),
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
    server = Container(settings, http_port, process)
    try:
        await _until_ready(server, folder / "log")
        yield server
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        for region in SHARED_MEMORY.glob(f"{shared_memory_prefix(process.pid)}*"):
            region.unlink()


async def _until_ready(server: Container, log: Path) -> None:
    async with asyncio.timeout(START_S):
        while server.process.returncode is None:
            try:
                if (await asyncio.to_thread(server.get, "/v2/health/ready"))[0] == 200:
                    return
            except OSError:
                pass
            await asyncio.sleep(0.2)
    raise AssertionError(log.read_text()[-3000:])


async def test_a_probe_tells_the_version_in_service_from_any_other(container: Container) -> None:
    assert container.get("/v2/health/live")[0] == 200
    assert container.get("/v2/models/brain_mr_net/versions/1/ready")[0] == 200
    assert container.get("/v2/models/brain_mr_net/versions/2/ready")[0] == 400
    assert container.get("/v2/models/lung_ct_net/versions/1/ready")[0] == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2"),
        ("GET", "/v2/models/brain_mr"),
        ("GET", "/v2/models/brain_mr/config"),
        ("GET", "/v2/models/brain_mr/stats"),
        ("GET", "/v2/models/stats"),
        ("GET", "/v2/systemsharedmemory/status"),
        ("POST", "/v2/systemsharedmemory/unregister"),
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/brain_mr/unload"),
        ("POST", "/v2/models/brain_mr/infer"),
        ("GET", "/v2/trace/setting"),
        ("GET", "/v2/logging"),
    ],
)
async def test_over_http_it_answers_nothing_but_probes(
    container: Container, method: str, path: str
) -> None:
    status, text = container.get(path, method)
    assert status == 403
    assert b"restricted" in text


async def test_the_worker_beside_it_shares_memory_with_it(
    container: Container, brain_mr: ModelSpec
) -> None:
    call = TritonModelSettings(
        container.settings.grpc_url, worker_key=container.settings.worker_key
    )
    async with TritonModel(brain_mr, call) as model:
        masks = await model.segment(*synthetic_series(brain_mr))
        assert model.way == "shared memory"
        assert (await model.identity()).version == "1"
    assert masks.shape == (1, 256, 256)


async def test_prometheus_sees_its_counters(container: Container) -> None:
    status, text = container.get("/metrics", port=container.settings.metrics_port)
    assert status == 200
    assert b'nv_inference_request_success{model="brain_mr_net",version="1"}' in text


async def test_it_ends_when_the_pod_does(container: Container) -> None:
    os.kill(container.process.pid, signal.SIGTERM)
    assert await asyncio.wait_for(container.process.wait(), 30) == 0


async def test_the_gpu_profile_asks_for_dali_and_tensorrt(
    random_repository: Path, tmp_path: Path
) -> None:
    settings = replace(TritonSettings(random_repository).resolved(), profile="gpu")
    http_port = TritonSettings(random_repository).resolved().grpc_port
    arguments = json.dumps(container_arguments(settings, http_port)).encode()
    write_private(tmp_path / "arguments.json", arguments)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "client.triton.container", "serve"),
        str(tmp_path / "arguments.json"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    log, _ = await asyncio.wait_for(process.communicate(), START_S)
    # Both are in NVIDIA's image alone: this server says what it lacks, and ends.
    assert process.returncode == 1
    for backend in (b"dali", b"tensorrt"):
        assert b"unable to find backend library for backend '" + backend in log


async def test_profiles_differ_in_what_a_gpu_needs(random_repository: Path) -> None:
    settings = TritonSettings(random_repository).resolved()
    cpu = set(container_arguments(settings))
    gpu = set(container_arguments(replace(settings, profile="gpu")))
    assert cpu - gpu == {
        "--model-config-name=cpu",
        "--allow-gpu-metrics=false",
        "--pinned-memory-pool-byte-size=0",
    }
    assert gpu - cpu == {"--model-config-name=gpu"}
